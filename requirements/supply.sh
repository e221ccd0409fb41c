#!/usr/bin/env bash
# What the images are made of and how the manifests are judged: SBOMs, known vulnerabilities, checkov, kube-score.
# The tools live in an environment of their own under the cache, outside .venv. Needs `make env` and, for the chart, helm.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${QWENFT_CACHE:-$HOME/.cache/qwenft}
out=${1:-dist/supply}
uv=$(ls "$cache"/bootstrap-*/bin/uv | head -1)
pin=$(sha256sum requirements/audit.txt | cut -c1-16)
tools=$cache/audit-$pin
if [ ! -f "$tools/READY" ]; then
  rm -rf "$tools"
  "$uv" venv --quiet --python 3.11 "$tools"
  VIRTUAL_ENV=$tools "$uv" pip sync --quiet --require-hashes requirements/audit.txt
  touch "$tools/READY"
fi
mkdir -p "$out/manifests"
: >"$out/kube-score"

# One SBOM an image, from the very file that the image is built from.
for image in operator trainer; do
  "$tools/bin/cyclonedx-py" requirements --output-reproducible --of JSON -o "$out/$image.cdx.json" "requirements/$image.txt"
  echo "SBOM of the $image image: $out/$image.cdx.json"
done

# Every finding that is skipped is explained in docs/supply_chain.md.
skipped=CKV_K8S_11,CKV_K8S_15,CKV_K8S_38,CKV_K8S_40,CKV_K8S_43,CKV2_K8S_6
cp manifests/{deployment,rbac,service,namespace}.yaml "$out/manifests/"
helm=$(ls "$cache"/bin/helm-*/helm 2>/dev/null | head -1 || command -v helm)
"$helm" template qwenft charts/qwenft -n qwenft-system --kube-version 1.35.0 >"$out/manifests/chart.yaml"
"$tools/bin/checkov" -d "$out/manifests" --framework kubernetes --quiet --compact --skip-download --skip-check "$skipped"

# kube-score is built from its Go module like the programs of the embedded cluster, where there is Go.
ignored=(container-resources container-ephemeral-storage-request-and-limit container-image-pull-policy
  container-security-context-user-group-id pod-networkpolicy pod-probes-identical)
if command -v go >/dev/null; then
  score=$(PYTHONPATH=tests/cluster python3 -c '
from embedded import binaries, layout, versions
place, product = layout.from_environment(), binaries.kube_score(versions.load())
import contextlib, sys
with contextlib.redirect_stdout(sys.stderr):
    binaries.build(place, product)
print(binaries.home(place, product) / "kube-score")')
  for files in "$out/manifests/chart.yaml" "$out/manifests/deployment.yaml $out/manifests/rbac.yaml $out/manifests/service.yaml $out/manifests/namespace.yaml"; do
    # shellcheck disable=SC2086 # several files
    "$score" score --output-format ci $(printf -- '--ignore-test %s ' "${ignored[@]}") $files | tee -a "$out/kube-score" | { grep -v '^\[OK\]\|SKIPPED' || true; }
  done
  echo "kube-score: $(grep -c '^\[OK\]' "$out/kube-score") checks passed, $(grep -c '^\[CRITICAL\]' "$out/kube-score" || true) critical"
else
  echo "kube-score was not run: there is no Go"
fi

# pip-audit asks the package index about each version; an index that does not answer such questions is told as such.
failed=0
for image in operator trainer; do
  "$tools/bin/pip-audit" --disable-pip --require-hashes --progress-spinner off -r "requirements/$image.txt" \
    >"$out/$image.audit" 2>&1 || failed=1
  unknown=$(grep -c 'could not be audited' "$out/$image.audit" || true)
  echo "pip-audit of $image: $unknown packages could not be audited; see $out/$image.audit"
done
exit $failed
