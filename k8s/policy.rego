# What every pod here must be. `fleet_pipeline_tests/test_manifests.py` asks it of all that is rendered and of the pods of runs;
# conftest and OPA read it too.
package main

import rego.v1

kinds := {"Deployment", "StatefulSet", "DaemonSet", "Job"}

spec := input.spec.template.spec if input.kind in kinds

labels := input.spec.template.metadata.labels if input.kind in kinds

name := sprintf("%s/%s", [input.kind, input.metadata.name])

containers contains container if some container in spec.containers

containers contains container if some container in spec.initContainers

deny contains sprintf("%s: pods run as root", [name]) if {
	spec
	not spec.securityContext.runAsNonRoot == true
}

deny contains sprintf("%s: no user id that is not root's", [name]) if {
	spec
	not spec.securityContext.runAsUser > 0
}

deny contains sprintf("%s: no seccomp profile", [name]) if {
	spec
	not spec.securityContext.seccompProfile.type == "RuntimeDefault"
}

deny contains sprintf("%s: addresses of services stand in the environment", [name]) if {
	spec
	not spec.enableServiceLinks == false
}

deny contains sprintf("%s: a token is mounted that no call needs", [name]) if {
	spec
	not labels["fleet/uses-api"] == "true"
	not spec.automountServiceAccountToken == false
}

deny contains sprintf("%s: no account of its own", [name]) if {
	spec
	object.get(spec, "serviceAccountName", "default") == "default"
}

deny contains sprintf("%s: shares %s with its node", [name, what]) if {
	some what in {"hostNetwork", "hostPID", "hostIPC"}
	spec[what] == true
}

deny contains sprintf("%s: mounts a folder of its node", [name]) if {
	some volume in spec.volumes
	volume.hostPath
}

deny contains sprintf("%s: an emptyDir without a limit", [name]) if {
	some volume in spec.volumes
	volume.emptyDir
	not volume.emptyDir.sizeLimit
}

deny contains sprintf("%s: %s may gain privileges", [name, container.name]) if {
	some container in containers
	not container.securityContext.allowPrivilegeEscalation == false
}

deny contains sprintf("%s: %s keeps capabilities", [name, container.name]) if {
	some container in containers
	not "ALL" in object.get(object.get(object.get(container, "securityContext", {}), "capabilities", {}), "drop", [])
}

deny contains sprintf("%s: %s writes to its image", [name, container.name]) if {
	some container in containers
	not container.securityContext.readOnlyRootFilesystem == true
}

deny contains sprintf("%s: %s has no %s of %s", [name, container.name, bound, what]) if {
	some container in containers
	some bound in {"requests", "limits"}
	some what in {"cpu", "memory"}
	not container.resources[bound][what]
}

deny contains sprintf("%s: %s has no %s", [name, container.name, probe]) if {
	input.kind in {"Deployment", "StatefulSet"}
	some container in spec.containers
	some probe in {"livenessProbe", "readinessProbe"}
	not container[probe]
	# The daemon is asked nothing by others.
	not [labels["app.kubernetes.io/component"], probe] == ["daemon", "readinessProbe"]
}

deny contains sprintf("%s: %s has an image without a version", [name, container.name]) if {
	some container in containers
	not regex.match(`:v?[0-9]+\.[0-9.]*[0-9][a-z0-9.-]*$|@sha256:[0-9a-f]{64}$`, container.image)
}

deny contains sprintf("%s: a value that should come from a Secret: %s", [name, variable.name]) if {
	some container in containers
	some variable in container.env
	regex.match(`password|secret|token|api_?key|credential`, lower(variable.name))
	variable.value
}

deny contains sprintf("%s: a Secret's value stands in the manifests", [name]) if input.kind == "Secret"

deny contains sprintf("%s: a right to everything", [name]) if {
	input.kind in {"Role", "ClusterRole"}
	some rule in input.rules
	some what in array.concat(rule.verbs, array.concat(rule.resources, rule.apiGroups))
	what == "*"
}

deny contains sprintf("%s: a right in the whole cluster", [name]) if input.kind in {"ClusterRole", "ClusterRoleBinding"}
