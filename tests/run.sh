#!/usr/bin/env bash
# `make test`: every tier from a fresh machine, one closing summary. A tier that fails does not keep the next from
# running, so that one look tells everything; the exit code is 1 if any failed.
set -uo pipefail
cd "$(dirname "$0")/.."
began=$SECONDS
names=()
results=()

tier() {
  local name=$1 from=$SECONDS result=passed
  shift
  printf '\n=== %s (at %d s)\n' "$name" "$((SECONDS - began))"
  "$@" || result="FAILED (exit $?)"
  names+=("$name")
  results+=("$result in $((SECONDS - from)) s")
  case $result in FAILED*) failed=1 ;; esac
}

failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
pytest_tier() {
  .venv/bin/python -m pytest -q "$@" 2>&1 | tee -a "$log"
  return "${PIPESTATUS[0]}"
}

tier 'environment' make --no-print-directory env
tier 'lint' make --no-print-directory lint
tier 'unit (no torch, no cluster)' pytest_tier -n 2 --dist loadfile -m 'not torch and not cluster and not full'
tier 'trainer (gloo ranks)' pytest_tier -n 2 --dist loadfile --no-loadscope-reorder -m 'torch and not cluster and not full' tests/trainer tests
tier 'end to end (cluster)' pytest_tier -m 'cluster and not full'

count() { grep -oE "[0-9]+ $1" <(grep -E '^(=+ )?[0-9]+ (passed|failed|skipped|error)' "$log") | awk '{n+=$1} END {print n+0}'; }
printf '\n=== summary\n'
for i in "${!names[@]}"; do printf '%-32s %s\n' "${names[$i]}" "${results[$i]}"; done
printf 'in all %d s\n' "$((SECONDS - began))"
printf '%d passed, %d failed, %d skipped\n' "$(count passed)" "$(($(count failed) + $(count error)))" "$(count skipped)"
exit "$failed"
