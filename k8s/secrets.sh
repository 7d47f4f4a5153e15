#!/usr/bin/env bash
# Makes the Secrets that are not there yet, with passwords of its own: `k8s/secrets.sh fleet` for the namespace fleet.
# What you have elsewhere is yours to say:
#   DATABASE_URL=postgresql+psycopg2://...    else that of components/postgres
#   AWS_ACCESS_KEY_ID=, AWS_SECRET_ACCESS_KEY=   else a pair for components/object-store
#   HF_TOKEN=                                 for models that ask for one
# To give new ones: delete a Secret, run this again, and restart what uses it (docs/kubernetes.md, "Rotate secrets").
set -euo pipefail

namespace=${1:?the namespace, such as fleet}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
umask 077

there() { kubectl -n "$namespace" get secret "$1" -o name >/dev/null 2>&1; }
random() { openssl rand -hex 24; }
# secret NAME KEY FILE [KEY FILE]...: from files, so that no value is seen in a list of processes.
secret() {
  local name=$1
  shift
  if there "$name"; then
    echo "secrets: $name is there"
    return
  fi
  local files=()
  while (($#)); do
    files+=("--from-file=$1=$2")
    shift 2
  done
  kubectl -n "$namespace" create secret generic "$name" "${files[@]}" >/dev/null
  echo "secrets: $name made"
}
put() { printf '%s' "$2" >"$folder/$1"; }

kubectl get namespace "$namespace" >/dev/null 2>&1 || kubectl create namespace "$namespace" >/dev/null

# What belongs together is made together.
together() {
  local name
  for name in "$@"; do
    if there "$1" && ! there "$name" || ! there "$1" && there "$name"; then
      echo "secrets: $* belong together: delete all of them, or none" >&2
      exit 1
    fi
  done
}
together fleet-postgres fleet-database
together fleet-nats-tls fleet-nats-ca
together fleet-vllm-tls fleet-vllm-ca
together fleet-nats-passwords fleet-nats-setup fleet-nats-daemon fleet-nats-answerer

put postgres "$(random)"
put database "${DATABASE_URL:-postgresql+psycopg2://fleet:$(cat "$folder/postgres")@fleet-postgres:5432/fleet}"
put key "${AWS_ACCESS_KEY_ID:-fleet}"
put secret "${AWS_SECRET_ACCESS_KEY:-$(random)}"
put vllm "$(random)"
put token "${HF_TOKEN:-}"
put setup-user setup
put daemon-user daemon
put answerer-user answerer
for user in SETUP PUBLISHER DAEMON SUBMITTER ANSWERER READER; do put "$user" "$(random)"; done

# certificate NAME: NAME.crt, NAME.key, and NAME-ca.crt that signed it. Of our own, for ten years; cert-manager can keep the Secrets
# that they go into as well. localhost: for `kubectl port-forward`.
certificate() {
  local name=$1 names="DNS:localhost,DNS:$1,DNS:*.$1,DNS:$1.$namespace.svc,DNS:*.$1.$namespace.svc"
  openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj "/CN=$name-ca" \
    -keyout "$folder/$name-ca.key" -out "$folder/$name-ca.crt" 2>/dev/null
  openssl req -newkey rsa:3072 -nodes -subj "/CN=$name" -keyout "$folder/$name.key" -out "$folder/$name.csr" 2>/dev/null
  openssl x509 -req -in "$folder/$name.csr" -CA "$folder/$name-ca.crt" -CAkey "$folder/$name-ca.key" -CAcreateserial -days 3650 \
    -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth' "$names") -out "$folder/$name.crt" 2>/dev/null
}
certificate fleet-nats
certificate fleet-vllm

# A pair belongs together: the database's URL holds the password, and the brokers know the users' passwords.
secret fleet-postgres password "$folder/postgres"
secret fleet-database DAGSTER_POSTGRES_URL "$folder/database"
secret fleet-storage AWS_ACCESS_KEY_ID "$folder/key" AWS_SECRET_ACCESS_KEY "$folder/secret"
secret fleet-nats-passwords NATS_SETUP_PASSWORD "$folder/SETUP" NATS_PUBLISHER_PASSWORD "$folder/PUBLISHER" \
  NATS_DAEMON_PASSWORD "$folder/DAEMON" NATS_SUBMITTER_PASSWORD "$folder/SUBMITTER" \
  NATS_ANSWERER_PASSWORD "$folder/ANSWERER" NATS_READER_PASSWORD "$folder/READER"
secret fleet-nats-setup FLEET_NATS__USER "$folder/setup-user" FLEET_NATS__PASSWORD "$folder/SETUP"
secret fleet-nats-daemon FLEET_NATS__USER "$folder/daemon-user" FLEET_NATS__PASSWORD "$folder/DAEMON"
secret fleet-nats-answerer FLEET_NATS__USER "$folder/answerer-user" FLEET_NATS__PASSWORD "$folder/ANSWERER"
secret fleet-nats-tls tls.crt "$folder/fleet-nats.crt" tls.key "$folder/fleet-nats.key" ca.crt "$folder/fleet-nats-ca.crt"
secret fleet-nats-ca ca.crt "$folder/fleet-nats-ca.crt"
secret fleet-vllm api-key "$folder/vllm"
secret fleet-vllm-tls tls.crt "$folder/fleet-vllm.crt" tls.key "$folder/fleet-vllm.key"
secret fleet-vllm-ca ca.crt "$folder/fleet-vllm-ca.crt"
if [ -n "${HF_TOKEN:-}" ]; then secret fleet-hub HF_TOKEN "$folder/token"; fi
