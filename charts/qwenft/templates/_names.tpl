{{/* Names and labels that several templates share. */}}
{{- define "qwenft.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "qwenft.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "qwenft.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "qwenft.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "qwenft.selector" -}}
app.kubernetes.io/name: {{ include "qwenft.name" . }}-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "qwenft.labels" -}}
{{ include "qwenft.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "qwenft.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "qwenft.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "qwenft.secret" -}}
{{- default (printf "%s-progress" (include "qwenft.fullname" .)) .Values.progress.existingSecret -}}
{{- end -}}

{{/* What each gang scheduler is told by. */}}
{{- define "qwenft.gangs" -}}
coscheduling: {group: scheduling.x-k8s.io, resources: [podgroups]}
kubernetes: {group: scheduling.k8s.io, resources: [workloads, podgroups]}
volcano: {group: scheduling.volcano.sh, resources: [podgroups]}
{{- end -}}

{{/* Rights on a run's objects: cluster-wide, or in one namespace. */}}
{{- define "qwenft.runRules" -}}
- apiGroups: [qwenft.dev]
  resources: [qwenfinetunes]
  verbs: [get, list, watch, delete]
- apiGroups: [qwenft.dev]
  resources: [qwenfinetunes/status, qwenfinetunes/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, create, patch]
- apiGroups: [""]
  resources: [services]
  verbs: [get, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create]
{{- range $gang, $objects := include "qwenft.gangs" . | fromYaml }}
{{- if has $.Values.scheduling.gang (list $gang "auto") }}
- apiGroups: [{{ $objects.group }}]
  resources: {{ toJson $objects.resources }}
  # Who may not delete an object may not hand it over to its Job either.
  verbs: [create, patch, delete]
{{- end }}
{{- end }}
{{- end -}}
