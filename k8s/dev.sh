#!/usr/bin/env bash
# A cluster on this laptop with everything in it, on CPU: kind, the images, the secrets, the overlay `dev`, and a first backlog.
# Needs docker and kind (https://kind.sigs.k8s.io). To end it: kind delete cluster --name fleet
set -euo pipefail
cd "$(dirname "$0")/.."

for program in docker kind kubectl openssl; do
  command -v "$program" >/dev/null || { echo "dev: $program is not here" >&2; exit 1; }
done

kind get clusters | grep -qx fleet || kind create cluster --name fleet
kubectl config use-context kind-fleet >/dev/null
k8s/images/build.sh control engine-cpu
kind load docker-image --name fleet fleet-pipeline/control:0.1.0 fleet-pipeline/engine-cpu:0.1.0
kubectl apply -f k8s/base/namespace.yaml
k8s/secrets.sh fleet
kubectl apply -k k8s/overlays/dev
echo "dev: waiting for the services"
kubectl -n fleet rollout status statefulset/fleet-postgres statefulset/fleet-store statefulset/fleet-nats --timeout=300s
kubectl -n fleet rollout status deployment/fleet-daemon deployment/fleet-code deployment/fleet-webserver --timeout=600s
echo "dev: asking for a first backlog"
kubectl -n fleet exec -i deployment/fleet-code -- sh -c 'cat > /tmp/first.jsonl && fleet submit --nats off /tmp/first.jsonl' <examples/backlog.jsonl
echo "dev: the UI is at http://localhost:3000; the first runs start within seconds"
exec kubectl -n fleet port-forward svc/fleet-webserver 3000
