package admin_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/weirproxy/weir/admin"
)

var update = flag.Bool("update", false, "rewrite the golden files and the reference page")

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
	golden(t, "../docs/reference/metrics.md", page.String())
}

// golden compares got with the file, or rewrites the file with -update.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is stale: run go test ./admin -update\ngot:\n%s", path, got)
	}
}
