package admin

// What the reference page says about lists of sessions.
const (
	UsualSessions = usualSessions
	MostSessions  = mostSessions
	SessionsTime  = sessionsTime
)

// MetricRow is what the reference page says about one metric.
type MetricRow struct {
	Name, Type, Help string
	Labels           []string
}

// MetricRows is the table of metrics.
func MetricRows() []MetricRow {
	var rows []MetricRow
	for _, m := range metrics {
		rows = append(rows, MetricRow{m.name, string(m.typ), m.help, m.labels})
	}
	return rows
}
