package storm

import (
	"context"
	"errors"
	"math"
	"time"
)

// calibrationPatience bounds the measurement of how much work a millisecond is.
const calibrationPatience = 20 * time.Second

// calibrate measures how many rows of workSQL an idle server counts in a millisecond. It takes the difference of a long and a
// short query, each the fastest of several, so that neither the network nor a bad moment is in it.
func calibrate(c *conn) (rowsPerMillisecond float64, err error) {
	const enough = 20 * time.Millisecond
	for rows := 20_000; rows < math.MaxInt32/8; rows *= 2 {
		short, err := fastest(c, rows)
		if err != nil {
			return 0, err
		}
		long, err := fastest(c, 3*rows)
		if err != nil {
			return 0, err
		}
		if long-short >= enough {
			return 2 * float64(rows) / (float64(long-short) / float64(time.Millisecond)), nil
		}
	}
	return 0, errors.New("the server counts too fast to be measured")
}

func fastest(c *conn, rows int) (time.Duration, error) {
	sql := workSQL(rows)
	best := time.Duration(math.MaxInt64)
	for range 5 {
		began := time.Now()
		if err := c.run(sql); err != nil {
			return 0, err
		}
		best = min(best, time.Since(began))
	}
	return best, nil
}

func workRows(work time.Duration, perMillisecond float64) int {
	rows := float64(work) / float64(time.Millisecond) * perMillisecond
	return int(min(max(1, rows), math.MaxInt32))
}

// Calibrate measures, on a server that should be idle, how many rows the query of Function.Work counts in a millisecond. A
// Plan with this as its RowsPerMillisecond asks for the same work at each target.
func Calibrate(ctx context.Context, dsn string) (rowsPerMillisecond float64, err error) {
	plan, err := Plan{DSN: dsn, Load: Steady(1, time.Second), Function: Function{Work: time.Millisecond}}.prepare()
	if err != nil {
		return 0, err
	}
	r := newRun(ctx, plan)
	defer r.stop()
	if err := r.open(); err != nil {
		return 0, err
	}
	r.finish()
	return r.perMilli, nil
}
