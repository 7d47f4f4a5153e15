#!/usr/bin/env bash
# Builds the images with docker, buildah or podman, whichever is there: k8s/images/build.sh [control] [engine] [engine-cpu]
# The names are those of k8s/base; PREFIX=registry.example.com/ puts a registry before them. BASE is another base image, and
# BUILD_OPTIONS goes to the builder as it is: -v for a certificate, --build-arg for a proxy.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
revision=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
if docker info >/dev/null 2>&1; then
  build=(docker build)
elif command -v buildah >/dev/null; then
  build=(buildah build)
elif command -v podman >/dev/null; then
  build=(podman build)
else
  echo "images: none of docker, buildah and podman is here" >&2
  exit 1
fi

read -ra options <<<"${BUILD_OPTIONS:-}"
(($#)) || set -- control engine
for image in "$@"; do
  file=k8s/images/$image.Dockerfile
  [ -f "$file" ] || { echo "images: no such image: $image; there are control, engine and engine-cpu" >&2; exit 1; }
  echo "images: ${PREFIX:-}fleet-pipeline/$image:$version with ${build[0]}"
  "${build[@]}" -t "${PREFIX:-}fleet-pipeline/$image:$version" -f "$file" \
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision" ${BASE:+--build-arg "BASE=$BASE"} "${options[@]}" .
done
