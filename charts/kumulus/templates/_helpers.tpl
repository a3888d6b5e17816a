{{/* Labels of every object; call with (dict "context" $ "component" "operator"). */}}
{{- define "kumulus.labels" -}}
{{ include "kumulus.selector" . }}
app.kubernetes.io/version: {{ .context.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .context.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .context.Chart.Name .context.Chart.Version }}
{{- end }}

{{/* Labels that a selector may use: they never change. */}}
{{- define "kumulus.selector" -}}
app.kubernetes.io/name: kumulus
app.kubernetes.io/instance: {{ .context.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* An image; call with (dict "context" $ "image" .Values.operator.image). */}}
{{- define "kumulus.image" -}}
{{ .image.repository }}:{{ .image.tag | default .context.Chart.AppVersion }}
{{- end }}

{{/* Settings as environment variables: vcpuOvercommit becomes KUMULUS_VCPU_OVERCOMMIT. */}}
{{- define "kumulus.env" -}}
{{- range $name, $value := . }}
- name: KUMULUS_{{ $name | snakecase | upper }}
  {{- /* Helm reads numbers as floats and would print a million as 1e+06. */}}
  {{- if and (kindIs "float64" $value) (eq (floor $value) $value) }}
  value: {{ $value | int64 | quote }}
  {{- else if kindIs "map" $value }}
  {{- $pairs := list }}
  {{- range $key, $word := $value }}
  {{- $pairs = append $pairs (printf "%s:%s" $key $word) }}
  {{- end }}
  value: {{ join "," $pairs | quote }}
  {{- else }}
  value: {{ $value | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The users that our processes are. */}}
{{- define "kumulus.operatorUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:kumulus-operator
{{- end }}
{{- define "kumulus.agentUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:kumulus-agent
{{- end }}

{{/* The console proxy's port as the API server's service proxy knows it. */}}
{{- define "kumulus.consolePort" -}}
https:kumulus-console:https
{{- end }}
