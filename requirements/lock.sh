#!/usr/bin/env bash
# Renews the pinned files of this folder from pyproject.toml. Every file carries hashes and no address, so
# that any index with the same artifacts serves it. `lock.sh --upgrade` takes newer versions.
set -euo pipefail
cd "$(dirname "$0")/.."
export UV_CUSTOM_COMPILE_COMMAND="make lock"
compile() {
  local out=$1
  shift
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --no-emit-find-links "${upgrade[@]}" "$@" --output-file "requirements/$out"
}
upgrade=("$@")
compile dev.txt pyproject.toml --extra operator --extra traces --extra trainer --group test
upgrade=()
compile unit.txt pyproject.toml --extra operator --extra traces --group test --constraint requirements/dev.txt
compile operator.txt pyproject.toml --extra operator --extra traces --constraint requirements/dev.txt
compile trainer.txt pyproject.toml --extra trainer --constraint requirements/dev.txt
printf 'uv\nhatchling\n' | compile bootstrap.txt -
printf 'mkdocs-material\n' | compile docs.txt -
printf 'wandb\nmlflow-skinny\nsqlalchemy\nalembic\n' | compile trackers.txt -
printf 'pip-audit\ncyclonedx-bom\ncheckov\n' | compile audit.txt -
printf 'moto[s3,server]\n' | compile stores.txt -
