package storm

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// WriteText writes the report for people: each result, and all of them side by side when there are several.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, result := range r.Results {
		result.describe(&b)
	}
	if len(r.Results) > 1 {
		b.WriteString("\nside by side\n\n")
		writeTable(&b, r.sideBySide())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Result) describe(b *strings.Builder) {
	fmt.Fprintf(b, "\n%s   %s\n%s\n\n", r.Name, r.Target, r.Setup.sentence())
	writeTable(b, r.outcomeRows())
	b.WriteString("\n")
	writeTable(b, r.latencyRows())
	r.describeRefusals(b)
	r.describeErrors(b)
	if len(r.Callers) > 1 {
		b.WriteString("\n")
		writeTable(b, r.callerRows())
		fmt.Fprintf(b, "\n  fairness %.3f (Jain's index of goodput by weight; 1 is fair)\n", r.Fairness)
	}
	g := r.Generator
	fmt.Fprintf(b, "\n  generator: began within %s of the schedule for 99 %% of functions, %s at most; %.0f µs of processor time an attempt\n",
		milliseconds(g.Lag.P99), milliseconds(g.Lag.Max), g.CPUPerAttempt)
	for _, warning := range r.Warnings {
		fmt.Fprintf(b, "  WARNING: %s\n", warning)
	}
	if r.Interrupted {
		b.WriteString("  interrupted: these are the figures up to then\n")
	}
}

// sentence is the setup in words.
func (s Setup) sentence() string {
	text := fmt.Sprintf("%s; %d connections kept", s.Load, s.Count)
	if s.Connections == string(Fresh) {
		text = fmt.Sprintf("%s; a fresh connection for each function, up to %d", s.Load, s.Count)
	}
	text = strings.TrimPrefix(text, "; ")
	text += fmt.Sprintf("; gone after %g ms", s.DeadlineMs)
	if s.SayDeadline {
		text += ", and says so"
	}
	if s.WorkMs > 0 {
		text += fmt.Sprintf("; %g ms of work", s.WorkMs)
	}
	if s.Retries > 0 {
		text += fmt.Sprintf("; tries again up to %d times", s.Retries)
		if s.HeedHint {
			text += " when the hint says"
		}
	}
	return text
}

func (r *Result) outcomeRows() [][]string {
	row := func(name string, n uint64, note string) []string {
		perSecond, share := "", ""
		if r.Seconds > 0 {
			perSecond = fmt.Sprintf("%.1f/s", float64(n)/r.Seconds)
		}
		if r.Offered > 0 {
			share = percent(float64(n) / float64(r.Offered))
		}
		return []string{name, fmt.Sprint(n), perSecond, share, note}
	}
	rows := [][]string{
		row("offered", r.Offered, ""),
		row("good", r.Good, ""),
		row("refused", r.Refused, ""),
		row("timed out", r.TimedOut, r.While.sentence()),
		row("failed", r.Failed, ""),
	}
	if r.Unfinished > 0 {
		rows = append(rows, row("unfinished", r.Unfinished, ""))
	}
	if r.Retried > 0 {
		rows = append(rows, row("tried again", r.Retried, ""))
	}
	return rows
}

// sentence names what is not zero.
func (t Timeouts) sentence() string {
	var parts []string
	for _, p := range []struct {
		n     uint64
		while string
	}{{t.Waiting, "waiting for a connection"}, {t.Login, "logging in"}, {t.Answer, "awaiting an answer"}, {t.Resting, "pausing"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.while))
		}
	}
	return strings.Join(parts, ", ")
}

func (r *Result) latencyRows() [][]string {
	rows := [][]string{{"", "p50", "p90", "p99", "p99.9", "max"}}
	add := func(name string, q Quantiles) {
		row := []string{name}
		for _, v := range []float64{q.P50, q.P90, q.P99, q.P999, q.Max} {
			row = append(row, milliseconds(v))
		}
		rows = append(rows, row)
	}
	if r.Good > 0 {
		add("latency of the good", r.Latency)
	}
	if r.Transaction.Count > 0 {
		add("each transaction", r.Transaction)
	}
	if r.Login != nil {
		add("login", *r.Login)
	}
	if len(rows) == 1 {
		return nil
	}
	return rows
}

func (r *Result) describeRefusals(b *strings.Builder) {
	if len(r.Refusals) == 0 {
		return
	}
	b.WriteString("\n")
	rows := [][]string{{"refused because", "attempts", "p50", "p99", "max"}}
	for _, refusal := range r.Refusals {
		rows = append(rows, []string{
			refusal.why(), fmt.Sprint(refusal.Count), milliseconds(refusal.Latency.P50), milliseconds(refusal.Latency.P99),
			milliseconds(refusal.Latency.Max),
		})
	}
	writeTable(b, rows)
}

func (r Refusal) why() string {
	text := strings.TrimSpace(r.SQLSTATE + " " + shorten(r.Message))
	if r.Rule != "" {
		text += " (" + r.Rule + ")"
	}
	return text
}

func (r *Result) describeErrors(b *strings.Builder) {
	if len(r.Errors) == 0 {
		return
	}
	b.WriteString("\n")
	rows := [][]string{{"errors", "attempts"}}
	for _, e := range r.Errors {
		rows = append(rows, []string{strings.TrimSpace(e.SQLSTATE + " " + shorten(e.Message)), fmt.Sprint(e.Count)})
	}
	writeTable(b, rows)
}

func (r *Result) callerRows() [][]string {
	rows := [][]string{{"caller", "offered", "good", "of offered", "good/s", "p50", "p99", "refused", "timed out", "failed", "weight"}}
	for _, c := range r.Callers {
		rows = append(rows, []string{
			c.Name, fmt.Sprint(c.Offered), fmt.Sprint(c.Good), percent(c.GoodShare), fmt.Sprintf("%.1f", c.GoodPerSecond),
			milliseconds(c.Latency.P50), milliseconds(c.Latency.P99), fmt.Sprint(c.Refused), fmt.Sprint(c.TimedOut),
			fmt.Sprint(c.Failed), fmt.Sprintf("%.3g", c.Weight),
		})
	}
	return rows
}

// sideBySide has a column for each result.
func (r *Report) sideBySide() [][]string {
	lines := []struct {
		name  string
		value func(*Result) string
	}{
		{"", func(r *Result) string { return r.Name }},
		{"offered", func(r *Result) string { return fmt.Sprint(r.Offered) }},
		{"good", func(r *Result) string { return fmt.Sprint(r.Good) }},
		{"good per second", func(r *Result) string { return fmt.Sprintf("%.1f", r.GoodPerSecond) }},
		{"good, of offered", func(r *Result) string { return percent(r.GoodShare) }},
		{"refused", func(r *Result) string { return fmt.Sprint(r.Refused) }},
		{"timed out", func(r *Result) string { return fmt.Sprint(r.TimedOut) }},
		{"failed", func(r *Result) string { return fmt.Sprint(r.Failed) }},
		{"latency p50", func(r *Result) string { return milliseconds(r.Latency.P50) }},
		{"latency p90", func(r *Result) string { return milliseconds(r.Latency.P90) }},
		{"latency p99", func(r *Result) string { return milliseconds(r.Latency.P99) }},
		{"latency p99.9", func(r *Result) string { return milliseconds(r.Latency.P999) }},
		{"login p99", func(r *Result) string {
			if r.Login == nil {
				return "-"
			}
			return milliseconds(r.Login.P99)
		}},
		{"fairness", func(r *Result) string { return fmt.Sprintf("%.3f", r.Fairness) }},
		{"generator's lag p99", func(r *Result) string { return milliseconds(r.Generator.Lag.P99) }},
	}
	var rows [][]string
	for _, line := range lines {
		row := []string{line.name}
		for _, result := range r.Results {
			row = append(row, line.value(result))
		}
		rows = append(rows, row)
	}
	return rows
}

// writeTable aligns the first column to the left and the others, which are numbers, to the right.
func writeTable(b *strings.Builder, rows [][]string) {
	var width []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		line := "  " + row[0] + strings.Repeat(" ", width[0]-utf8.RuneCountInString(row[0]))
		for i, cell := range row[1:] {
			line += "   " + strings.Repeat(" ", width[i+1]-utf8.RuneCountInString(cell)) + cell
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

// milliseconds with as many digits as matter.
func milliseconds(ms float64) string {
	switch {
	case ms == 0:
		return "-"
	case ms < 10:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }

// shorten keeps a line a line.
func shorten(text string) string {
	const longest = 100
	text = strings.Join(strings.Fields(text), " ")
	if utf8.RuneCountInString(text) <= longest {
		return text
	}
	return string([]rune(text)[:longest-1]) + "…"
}
