#!/usr/bin/env bash
# `make docs`: the site, in build/site. mkdocs lives in an environment of its own in the cache, made from the pinned
# file on the first call. Strict: a link or an anchor that leads nowhere fails the build.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${QWENFT_CACHE:-$HOME/.cache/qwenft}
pin=$(sha256sum requirements/docs.txt | cut -c1-16)
tools=$cache/docs-$pin
if [ ! -f "$tools/READY" ]; then
  rm -rf "$tools"
  mkdir -p "$cache"
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r requirements/docs.txt
  touch "$tools/READY"
fi
NO_MKDOCS_2_WARNING=1 "$tools/bin/mkdocs" build --strict --quiet --config-file docs/mkdocs.yml --site-dir "$PWD/build/site"
echo "documentation: build/site/index.html"
