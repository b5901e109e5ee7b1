{{- define "anabranch.labels" -}}
app.kubernetes.io/name: anabranch
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "anabranch.selector" -}}
app.kubernetes.io/name: anabranch
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "anabranch.image" -}}
{{ .root.Values.image.registry }}/{{ .name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* The environment of every container of ours: who it is, and what it logs. */}}
{{- define "anabranch.env" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: ANABRANCH_LOG
  value: {{ .Values.log | quote }}
{{- end }}

{{/* Our containers need nothing beyond their process. */}}
{{- define "anabranch.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* A sidecar on a node: the driver's socket is root's, so it is root, and may nothing else. */}}
{{- define "anabranch.sidecarOfNode" -}}
{{ include "anabranch.sidecar" . }}
securityContext:
  # The socket of the driver is root's alone.
  runAsUser: 0
  {{- include "anabranch.confined" . | nindent 2 }}
{{- end }}

{{- define "anabranch.sidecar" -}}
{{- $sidecar := index .root.Values.sidecars .sidecar -}}
image: {{ $sidecar.image }}:{{ $sidecar.tag }}
imagePullPolicy: {{ .root.Values.sidecars.pullPolicy }}
resources: {{- toYaml $sidecar.resources | nindent 2 }}
{{- end }}

{{/* "true" where VolumeSnapshots are served. */}}
{{- define "anabranch.snapshots" -}}
{{- $asked := .Values.csi.snapshots.enabled | toString }}
{{- if eq $asked "auto" }}{{ .Capabilities.APIVersions.Has "snapshot.storage.k8s.io/v1" }}{{ else }}{{ $asked }}{{ end }}
{{- end }}

{{/* Before Kubernetes 1.34 there are no classes of attributes for the sidecars to follow. */}}
{{- define "anabranch.attributeClasses" -}}
{{- if semverCompare "<1.34-0" .Capabilities.KubeVersion.Version -}}
- --feature-gates=VolumeAttributesClass=false
{{- end }}
{{- end }}

{{/* What listens in each component, by the name of the port. */}}
{{- define "anabranch.metricsPorts" -}}
operator: {metrics: 8080}
node:
  metrics: 8081
  provisioner: 8082
  {{- if eq (include "anabranch.snapshots" .) "true" }}
  snapshotter: 8083
  {{- end }}
controller: {resizer: 8084}
{{- end }}
{{- define "anabranch.probePorts" -}}
node: {csi-healthz: 9808, registrar: 9809}
controller: {csi-healthz: 9808}
{{- end }}
