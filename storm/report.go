package storm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Target is a database, or a pooler in front of one.
type Target struct {
	Name string
	DSN  string
}

// Report is what became of the same storm at one target or several.
type Report struct {
	Version int       `json:"version"` // of this form: 1
	Results []*Result `json:"results"`
}

// settle is how long a database may forget one storm before the next.
const settle = 2 * time.Second

// Compare runs the plan at each target in turn: the same functions at the same moments, with the same amount of work. The
// plan's own DSN and Name are not used. An interrupt ends it; the report has what there is.
func Compare(ctx context.Context, plan Plan, targets []Target, observe func(target string, p Progress)) (*Report, error) {
	for _, target := range targets {
		if err := plan.at(target).Validate(); err != nil {
			return nil, fmt.Errorf("target %s: %w", target.Name, err)
		}
	}
	report := &Report{Version: 1, Results: []*Result{}}
	for i, target := range targets {
		if i > 0 {
			select {
			case <-time.After(settle):
			case <-ctx.Done():
				return report, nil
			}
		}
		result, err := Run(ctx, plan.at(target), func(p Progress) {
			if observe != nil {
				observe(target.Name, p)
			}
		})
		if err != nil {
			if ctx.Err() != nil && i > 0 {
				return report, nil
			}
			if len(targets) > 1 {
				err = fmt.Errorf("target %s: %w", target.Name, err)
			}
			return nil, err
		}
		report.Results = append(report.Results, result)
		plan.RowsPerMillisecond = result.Setup.RowsPerMillisecond
		if result.Interrupted {
			break
		}
	}
	return report, nil
}

func (p Plan) at(target Target) Plan {
	p.DSN, p.Name = target.DSN, target.Name
	return p
}

// WriteJSON writes the report for programs, in one line.
func (r *Report) WriteJSON(w io.Writer) error { return json.NewEncoder(w).Encode(r) }
