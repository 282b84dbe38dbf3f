//go:build !race

package postgres_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/pgtest"
)

// wearisome are things that a client may send over and over, each with what it takes to send it.
func wearisome(random *rand.Rand) map[string]struct {
	before []frontend // is answered first
	unit   []frontend // over and over
	after  []frontend
} {
	big := "SELECT set_config('a.b', '1', false) /*" + strings.Repeat("set_config(", 1300) + "*/"
	many := func(format string, n int) string {
		var all []string
		for range n {
			all = append(all, fmt.Sprintf(format, random.IntN(1e6)))
		}
		return strings.Join(all, " ")
	}
	type w = struct{ before, unit, after []frontend }
	return map[string]struct{ before, unit, after []frontend }{
		"Syncs":                       w{nil, []frontend{synchronize}, nil},
		"Syncs ahead of COPY data":    w{nil, []frontend{synchronize}, []frontend{parse("", "SELECT 1"), bind("", ""), execute("", 0), synchronize}},
		"Parses":                      w{nil, []frontend{parse("", "SELECT 1")}, []frontend{synchronize}},
		"Parses behind an error":      w{nil, []frontend{parse("", "selec"), parse("", "SELECT 1")}, []frontend{synchronize}},
		"Binds of a big statement":    w{[]frontend{parse("s", big), synchronize}, []frontend{bind("", "s")}, []frontend{synchronize}},
		"Describes":                   w{[]frontend{parse("s", "SELECT 1"), synchronize}, []frontend{describe('S', "s")}, []frontend{synchronize}},
		"Closes":                      w{nil, []frontend{closing('S', "s")}, []frontend{synchronize}},
		"portals of DEALLOCATE":       w{[]frontend{parse("x", "SELECT 1"), parse("s", "DEALLOCATE x"), synchronize}, []frontend{bind(fmt.Sprint(random.IntN(1e9)), "s")}, []frontend{synchronize}},
		"empty queries":               w{nil, []frontend{query("")}, nil},
		"queries":                     w{nil, []frontend{query("SELECT 1")}, nil},
		"names of parameters":         w{nil, []frontend{query("SET LOCAL a.q = '1' /*" + many("set a.b%d", 1500) + "*/")}, nil},
		"parentheses":                 w{nil, []frontend{parse("", "set_config"+strings.Repeat("(", 15000))}, []frontend{synchronize}},
		"a text of parentheses":       w{nil, []frontend{query("set_config" + strings.Repeat("(", 250_000))}, nil},
		"strings within strings":      w{nil, []frontend{query("DO $$BEGIN EXECUTE '" + strings.Repeat("DO $a$ EXECUTE ''x''; $a$;", 500) + "'; END$$")}, nil},
		"new statements":              w{nil, []frontend{parse("", "SELECT 1"+many(", %d", 1000))}, []frontend{synchronize}},
		"batches":                     w{nil, batchOf("SELECT 1"), nil},
		"flushes":                     w{nil, []frontend{flush}, nil},
		"data of a COPY there is not": w{nil, []frontend{data("x")}, nil},
	}
}

// One client must not keep a loop from the others: whatever it sends, and however much, a stranger on the same loop is served in between.
// How long that takes is bounded generously, for the machine may be busy; what is quadratic takes seconds.
func TestNobodyFreezesALoop(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	const most, afterwards = 400 * time.Millisecond, 200 * time.Millisecond
	sizes := []int{1 << 20, 4 << 20}
	if testing.Short() {
		sizes = sizes[:1]
	}
	random := rand.New(rand.NewPCG(1, 2))
	for name, w := range wearisome(random) {
		t.Run(name, func(t *testing.T) {
			proxy := start(t, settings{servers: 3, loops: 1})
			stranger := proxy.client()
			stranger.Query("SELECT 1")
			for _, size := range sizes {
				c := proxy.client()
				if w.before != nil {
					c.Send(w.before...)
					c.UntilReady(1)
				}
				unit := pgtest.Encode(w.unit...)
				wire := append(bytes.Repeat(unit, max(1, size/len(unit))), pgtest.Encode(w.after...)...)
				done := make(chan struct{})
				go func() {
					defer close(done)
					go drain(c)
					_, _ = c.Conn().Write(wire)
				}()
				worst, end := time.Duration(0), time.Time{}
				for end.IsZero() || time.Now().Before(end) {
					began := time.Now()
					if got := lastError(stranger.Query("SELECT 1")); got != "" {
						t.Fatalf("the stranger is told %s", got)
					}
					worst = max(worst, time.Since(began))
					select {
					case <-done:
						if end.IsZero() {
							end = time.Now().Add(afterwards) // weir has yet to take what the system has
						}
					default:
					}
				}
				c.Close()
				if t.Logf("%d bytes: at most %v", len(wire), worst); worst > most {
					t.Errorf("beside %d bytes, a stranger waits %v", len(wire), worst)
				}
			}
		})
	}
}

// drain reads all that is said to a client.
func drain(c *pgtest.Client) {
	b := make([]byte, 64<<10)
	for {
		if _, err := c.Conn().Read(b); err != nil {
			return
		}
	}
}
