package postgres_test

import (
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/limiter"
)

// A client that begins a transaction and thinks holds no server connection.
func TestABlockTakesAServerWithItsFirstStatement(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1})
	c, other := w.client(), w.client()
	for i := range 3 {
		if i == 0 {
			c.Send(parse("", "BEGIN"), bind("", ""), execute("", 0), synchronize)
		} else {
			c.Send(query("BEGIN"))
		}
		c.UntilReady(1)
		one(t, other.Query("SELECT 1"))
		if got := one(t, c.Query("SELECT current_setting('transaction_isolation')")); got != "read committed" {
			t.Errorf("isolation level %s", got)
		}
		if used := w.servers("used"); used != 1 {
			t.Errorf("%d connections are used", used)
		}
		c.Query("COMMIT")
		one(t, other.Query("SELECT 1"))
	}
}

// Where the first statement is refused, the transaction has failed, and ends as it would.
func TestABlockWhoseFirstStatementIsRefused(t *testing.T) {
	pgtest.Shared(t)
	w := start(t, settings{servers: 1, queue: limiter.Queue{Wait: 20 * time.Millisecond}})
	holder := w.client()
	holder.Query("BEGIN; SELECT 1")
	batch := func(sql string) []frontend {
		return []frontend{parse("", sql), bind("", ""), execute("", 0), synchronize}
	}
	for name, first := range map[string][]frontend{"a query": {query("SELECT 1")}, "a batch": batch("SELECT 1")} {
		c := w.client()
		status := func(want byte, code string, messages ...frontend) {
			t.Helper()
			c.Send(messages...)
			got := c.UntilReady(1)
			if last := got[len(got)-1]; last.Body[0] != want || lastError(got) != code {
				t.Errorf("%s: answered %v, want %q and status %c", name, got, code, want)
			}
		}
		for range 2 {
			status('T', "", query("BEGIN"))
			status('E', "53300", first...)
			status('E', "25P02", query("SELECT 2"))
			status('E', "25P02", batch("SELECT 2")...)
			status('E', "", synchronize)
			status('I', "", query("COMMIT"))
			status('I', "", synchronize)
		}
		status('T', "", query("BEGIN"))
		status('E', "53300", first...)
		holder.Query("COMMIT")
		status('I', "", batch("ROLLBACK")...)
		status('I', "", query("SELECT 1"))
		if got := one(t, c.Query("SELECT 'and on'")); got != "and on" {
			t.Errorf("%s: then %q", name, got)
		}
		holder.Query("BEGIN; SELECT 1")
		c.Close()
	}
}
