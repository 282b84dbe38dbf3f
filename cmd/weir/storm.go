package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// storm is many functions that start at the same moment. Each connects afresh, as functions do, runs some transactions
// with work of its own in between, and is gone.
type storm struct {
	functions    int
	transactions int           // of each function
	pause        time.Duration // between two transactions of a function, when it needs no database
	patience     time.Duration // after which a function is given up
}

// stormResult is what became of the functions.
type stormResult struct {
	finished     int
	refused      map[string]int // functions that were turned away, by what they were told
	took         time.Duration
	logins       []time.Duration // of those that got in, ascending
	transactions []time.Duration // of those that committed, ascending
}

// run lets the storm loose and waits until it is over.
func (s storm) run(ctx context.Context, dsn string) stormResult {
	result := stormResult{refused: map[string]int{}}
	var mu sync.Mutex // guards result
	var running sync.WaitGroup
	started := time.Now()
	for i := range s.functions {
		running.Go(func() {
			f := function{number: i}
			ctx, cancel := context.WithTimeout(ctx, s.patience)
			defer cancel()
			err := f.live(ctx, dsn, s)

			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				result.finished++
			} else {
				result.refused[complaint(err)]++
			}
			if f.login > 0 {
				result.logins = append(result.logins, f.login)
			}
			result.transactions = append(result.transactions, f.transactions...)
		})
	}
	running.Wait()
	result.took = time.Since(started)
	slices.Sort(result.logins)
	slices.Sort(result.transactions)
	return result
}

// function is one of the storm, and remembers how long it had to wait.
type function struct {
	number       int
	login        time.Duration
	transactions []time.Duration
}

func (f *function) live(ctx context.Context, dsn string, s storm) error {
	started := time.Now()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	f.login = time.Since(started)

	for n := range s.transactions {
		if n > 0 {
			select {
			case <-time.After(s.pause):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		started := time.Now()
		if err := f.order(ctx, conn); err != nil {
			return err
		}
		f.transactions = append(f.transactions, time.Since(started))
	}
	return nil
}

// order is one transaction of a shop.
func (f *function) order(ctx context.Context, conn *pgx.Conn) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var id int64
		err := tx.QueryRow(ctx, "INSERT INTO orders (customer, cents) VALUES ($1, $2) RETURNING id", f.number, 100+f.number).Scan(&id)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE orders SET paid = true WHERE id = $1", id)
		return err
	})
}

// complaint is what the function was told, without what differs from function to function.
func complaint(err error) string {
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok {
		return fmt.Sprintf("%s: %s (SQLSTATE %s)", refusal.Severity, refusal.Message, refusal.Code)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return "no connection"
	}
	return err.Error()
}

// percentile of ascending values; 0 when there are none.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}
