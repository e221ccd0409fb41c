#!/usr/bin/env bash
# Makes .venv from one pinned file: install.sh unit | dev. Quick when nothing changed; a cut-off install is
# begun again, because the stamp is written last. uv itself is kept outside the checkout.
set -euo pipefail
cd "$(dirname "$0")/.."
set_name=$1
cache=${QWENFT_CACHE:-$HOME/.cache/qwenft}
stamp=.venv/READY
# What was dev stays dev: the smaller set would take torch from under whoever runs in it.
if grep -qs '^dev ' "$stamp"; then set_name=dev; fi
wanted=$(cat "requirements/$set_name.txt" pyproject.toml | sha256sum | cut -c1-16)
# The dev set holds the unit set, so it serves both.
for name in "$set_name" dev; do
  have=$(cat "requirements/$name.txt" pyproject.toml | sha256sum | cut -c1-16)
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$name $have" ]; then exit 0; fi
done

pin=$(sha256sum requirements/bootstrap.txt | cut -c1-16)
tools=$cache/bootstrap-$pin
if [ ! -f "$tools/READY" ]; then
  rm -rf "$tools"
  mkdir -p "$cache"
  if ! python3 -m venv "$tools" 2>/dev/null; then
    apt-get install -y --no-install-recommends python3-venv >/dev/null
    rm -rf "$tools"
    python3 -m venv "$tools"
  fi
  "$tools/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
  touch "$tools/READY"
fi

echo "environment: $set_name set into .venv (torch alone is about 5 GB)"
if [ ! -x .venv/bin/python ]; then
  rm -rf .venv
  "$tools/bin/uv" venv --quiet --python "$(command -v python3)" .venv
fi
rm -f "$stamp"
export VIRTUAL_ENV=$PWD/.venv UV_HTTP_TIMEOUT=600
"$tools/bin/uv" pip sync --quiet --require-hashes "requirements/$set_name.txt"
# The checkout itself: plain .pth paths, no dependency is resolved again.
"$tools/bin/uv" pip install --quiet --no-deps \
  --build-constraints requirements/bootstrap.txt --editable .
echo "$set_name $wanted" >"$stamp"
