#!/usr/bin/env bash
# `make dist`: what a release hands out, in dist/. A version given as VERSION must be the project's: a tag that does not
# match what it would publish fails here.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml | head -n 1)
chart=$(sed -n 's/^version: //p' charts/qwenft/Chart.yaml)
if [ "$version" != "$chart" ] || [ "${VERSION:-$version}" != "$version" ]; then
  echo "versions differ: pyproject.toml $version, chart $chart, asked for ${VERSION:-$version}" >&2
  exit 1
fi
pin=$(sha256sum requirements/bootstrap.txt | cut -c1-16)
tools=${QWENFT_CACHE:-$HOME/.cache/qwenft}/bootstrap-$pin/bin
rm -rf dist
"$tools/hatchling" build -d dist >/dev/null
if command -v helm >/dev/null; then
  helm package charts/qwenft --destination dist >/dev/null
else
  tar --sort=name --owner=0 --group=0 --mtime=@0 -C charts -czf "dist/qwenft-$version.tgz" qwenft
fi
ls dist
