package admin_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/weirproxy/weir/admin"
	"github.com/weirproxy/weir/internal/golden"
	"github.com/weirproxy/weir/proxy"
)

const referenceIntro = `<!-- Generated from the table in admin/metrics.go: go test ./admin -update -->

# Metrics

` + "`GET /metrics`" + ` on the admin listener answers in Prometheus' text format. A scrape reads counters and stops nobody.

` + "```yaml" + `
# prometheus.yml
scrape_configs:
  - job_name: weir
    authorization: { credentials: "the admin.read_token" }   # without tokens, scrape from the same machine
    static_configs:
      - targets: [ "weir.internal:8432" ]
` + "```" + `

| name | type | labels | meaning |
|---|---|---|---|
`

const referenceOutro = `
Counters start at zero with the process. Histograms are in seconds and come as ` + "`_bucket`, `_sum` and `_count`" + `.
The ` + "`go_*` and `process_*`" + ` metrics of the Prometheus client library are there as well: memory, goroutines,
garbage collection, CPU time, open file descriptors.

## Questions they answer

| question | expression |
|---|---|
| How full is the budget? | ` + "`sum by (resource) (weir_server_connections) / on (resource) max by (resource) (weir_budget)`" + ` |
| Are functions refused, and why? | ` + "`sum by (resource, reason) (rate(weir_refused_total{mode=\"enforce\"}[1m]))`" + ` |
| What would a rule in shadow mode refuse? | ` + "`sum by (resource, reason) (rate(weir_refused_total{mode=\"shadow\"}[1m]))`" + ` |
| How long do transactions wait (p99)? | ` + "`histogram_quantile(0.99, sum by (resource, le) (rate(weir_queue_wait_seconds_bucket[1m])))`" + ` |
| Is a database not answering? | ` + "`max by (resource) (weir_breaker_state) == 2`" + ` |
| Does every weir see the fleet? | ` + "`min(weir_fleet_up) == 1`" + ` |
`

func TestReferencePageIsUpToDate(t *testing.T) {
	var page strings.Builder
	page.WriteString(referenceIntro)
	for _, row := range admin.MetricRows() {
		labels := "–"
		if len(row.Labels) > 0 {
			labels = "`" + strings.Join(row.Labels, "` `") + "`"
		}
		fmt.Fprintf(&page, "| `%s` | %s | %s | %s |\n", row.Name, row.Type, labels, row.Help)
	}
	page.WriteString(referenceOutro)
	golden.Compare(t, "../docs/reference/metrics.md", page.String())
}

const apiIntro = `<!-- Generated from proxy/session.go, proxy/refusals.go and package admin: go test ./admin -update -->

# HTTP API

On the admin listener, beside ` + "`/healthz`, `/readyz` and `/metrics`" + `. It reads and changes nothing; who may read is what
[the configuration](configuration.md) says of ` + "`admin`" + `: the read or the write token as bearer token, and without tokens clients on
this machine.

## GET /api/v1/sessions

The clients that are logged in, one by one, those that have been in their state for longest first. Event loops are asked for a few
at a time, so that no client waits for it; who comes, goes or changes meanwhile may be missed.

` + "```" + `
curl -s -H "Authorization: Bearer $READ_TOKEN" 'http://weir.internal:8432/api/v1/sessions?state=pinned&limit=20'
` + "```" + `

| parameter | meaning |
|---|---|
| ` + "`resource`" + ` | only of this resource |
| ` + "`state`" + ` | only in this state |
`

func TestAPIReferencePageIsUpToDate(t *testing.T) {
	var page strings.Builder
	page.WriteString(apiIntro)
	fmt.Fprintf(&page, "| `limit` | at most so many, from 1 to %d (%d) |\n", admin.MostSessions, admin.UsualSessions)
	page.WriteString("\nThe answer is `{\"sessions\": [...], \"truncated\": false}`; `truncated` says that there are more than the limit.\n\n| field | type | meaning |\n|---|---|---|\n")
	writeFields(&page, reflect.TypeFor[proxy.Session]())
	page.WriteString("\n| state | meaning |\n|---|---|\n")
	for _, s := range proxy.SessionStates {
		fmt.Fprintf(&page, "| `%s` | %s |\n", s.Name, s.Meaning)
	}
	page.WriteString("\n| pinned by | the session has |\n|---|---|\n")
	for _, r := range proxy.PinReasons {
		fmt.Fprintf(&page, "| `%s` | %s |\n", r.Name, r.Meaning)
	}
	fmt.Fprintf(&page, apiRefusals, admin.MostRefusals, admin.UsualRefusals)
	writeFields(&page, reflect.TypeFor[proxy.RefusalRecord]())
	fmt.Fprintf(&page, `
## Status

| status | when |
|---|---|
| 200 | |
| 400 | a parameter that is not understood; the text says what was expected |
| 401, 403 | the caller may not read; the text says what is missing |
| 503 | of sessions: the event loops, or those who asked before, have taken longer than %v |
`, admin.SessionsTime)
	golden.Compare(t, "../docs/reference/api.md", page.String())
}

func writeFields(page *strings.Builder, fields reflect.Type) {
	for i := range fields.NumField() {
		f := fields.Field(i)
		fmt.Fprintf(page, "| `%s` | %s | %s |\n", f.Tag.Get("json"), jsonTypes[f.Type.Kind()], f.Tag.Get("help"))
	}
}

const apiRefusals = `
## GET /api/v1/refusals

The last %d transactions that were refused, or would have been by a rule in shadow mode, the newest first. [Refusals](refusals.md)
says what they mean.

` + "```" + `
curl -s -H "Authorization: Bearer $READ_TOKEN" 'http://weir.internal:8432/api/v1/refusals?id=23khvz34lq'
` + "```" + `

| parameter | meaning |
|---|---|
| ` + "`id`" + ` | the one with this id |
| ` + "`resource`, `reason`, `caller`, `mode`" + ` | only those; mode is enforce or shadow |
| ` + "`limit`" + ` | at most so many (%d) |

The answer is ` + "`{\"refusals\": [...]}`" + `.

| field | type | meaning |
|---|---|---|
`

var jsonTypes = map[reflect.Kind]string{
	reflect.String: "string", reflect.Uint32: "number", reflect.Int64: "number", reflect.Slice: "list of strings", reflect.Struct: "string",
}
