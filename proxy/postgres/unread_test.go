package postgres_test

import (
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/proxy/postgres"
)

// A server that does not read for longer than tcp_user_timeout is not gone: a COPY may wait for something, and so may what was sent
// behind a long statement.
func TestAServerThatDoesNotReadForAWhileIsNotGone(t *testing.T) {
	pg := pgtest.Start(t, pgtest.Config{})
	direct := pgtest.Connect(t, pg.DSN())
	for _, sql := range []string{
		"CREATE TABLE slow (v text)",
		"CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $f$BEGIN PERFORM pg_sleep(3); RETURN NEW; END$f$",
		"CREATE TRIGGER waits BEFORE INSERT ON slow FOR EACH ROW WHEN (NEW.v = 'wait') EXECUTE FUNCTION wait()",
	} {
		direct.Query(sql)
	}
	w := start(t, settings{upstream: pg.DSN(), servers: 2, timeouts: postgres.Timeouts{TCPUserTimeout: time.Second}})
	long := strings.Repeat(strings.Repeat("x", 99)+"\n", 500)
	for name, messages := range map[string][]frontend{
		"COPY":                  {query("COPY slow FROM STDIN"), data("wait\n")},
		"what is sent behind":   {query("SELECT pg_sleep(3)")},
		"COPY, with some of it": {query("COPY slow FROM STDIN"), data("wait\n"), data(long[:1000])},
	} {
		t.Run(name, func(t *testing.T) {
			c := w.client()
			began := time.Now()
			c.Send(messages...)
			answers := 1
			if len(messages) > 1 {
				c.Send(repeat(100, data(long))...)
				c.Send(copyDone)
			} else {
				for range 40 {
					c.Send(query("SELECT '" + long + "'"))
				}
				answers += 40
			}
			got := pgtest.Types(c.UntilReady(answers))
			if strings.Contains(got, "E") || time.Since(began) < 2*time.Second {
				t.Errorf("answered with %s after %v", got, time.Since(began))
			}
		})
	}
}
