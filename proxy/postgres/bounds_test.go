package postgres_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/proxy"
)

// Where the configuration does not say how many sessions may keep a server connection, more than a quarter do as long as nobody waits.
func TestSessionsThatKeepAServerConnectionGiveItUpWhereOthersWait(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 4, pinned: 1, softPins: true, queue: limiter.Queue{Wait: 5 * time.Second}})
	var listeners []*pgtest.Client
	for range 4 {
		c := w.client()
		if got := lastError(c.Query("LISTEN news")); got != "" {
			t.Fatalf("while nobody waits, one is told %s", got)
		}
		listeners = append(listeners, c)
	}
	w.eventually("all rest", func() bool { return w.Stats().Resources[0].Pinned["listen"] == 4 })
	for range 5 { // one after the other they are served by the first one's connection
		if got := lastError(w.client().Query("SELECT 1")); got != "" {
			t.Errorf("who waits is told %s", got)
		}
	}
	if got := lastError(listeners[0].UntilClosed()); got != "53300" {
		t.Errorf("who has rested longest is told %q", got)
	}
	for i, c := range listeners[1:] {
		if got := lastError(c.Query("SELECT 1")); got != "" {
			t.Errorf("listener %d is told %s", i+1, got)
		}
	}
	w.eventually("three are left", func() bool { return w.Stats().Resources[0].Pinned["listen"] == 3 })
}

// Sessions that keep a server connection and never rest for long do not keep others out.
func TestBusySessionsThatKeepAServerConnectionGiveItUp(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 2, pinned: 1, softPins: true, queue: limiter.Queue{Wait: 5 * time.Second}})
	var busy sync.WaitGroup
	defer busy.Wait()
	for range 2 {
		c := w.client()
		defer c.Close()
		c.Query("LISTEN news")
		busy.Go(func() {
			for {
				if _, err := c.Conn().Write(pgtest.Encode(query("SELECT 1"))); err != nil {
					return
				}
				for m := (pgtest.Message{}); m.Type != 'Z'; {
					var err error
					if m, err = c.Try(); err != nil {
						return
					}
				}
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	if got := lastError(w.client().Query("SELECT 1")); got != "" {
		t.Errorf("who waits is told %s", got)
	}
}

// A client may have so much text prepared, and all those of one user together: what it prepares beyond is refused at its place, whatever else
// it has goes on, and others notice nothing.
func TestTooMuchTextOfPreparedStatements(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	filler := strings.Repeat("x", 10_000)
	text := func(i int) string { return fmt.Sprintf("SELECT %d /*%s*/", i, filler) }
	for name, test := range map[string]struct {
		settings settings
		clients  int
	}{
		"of a client": {settings{clientText: 200_000}, 1},
		"of a user":   {settings{userText: 200_000}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			test.settings.servers, test.settings.users = 2, map[string]string{"app": "x", "other": "x"}
			w := start(t, test.settings)
			var greedy []*pgtest.Client
			for range test.clients {
				greedy = append(greedy, w.client())
			}
			refused, c := 0, greedy[0]
			for i := range 30 {
				c = greedy[i%len(greedy)]
				switch code := lastError(say(c, parse(fmt.Sprint("s", i), text(i)), synchronize)); {
				case code == "53400":
					refused++
				case code != "" || refused > 0:
					t.Fatalf("statement %d: %q, behind %d that were refused", i, code, refused)
				}
			}
			if refused < 10 || refused > 12 {
				t.Errorf("%d of 30 statements were refused", refused)
			}
			if n := w.refusals(proxy.ClientLimit); n != int64(refused) {
				t.Errorf("counted %d refusals of %d", n, refused)
			}
			// a long one that comes in pieces, one in a batch and one in a block are refused at their places, too
			long := parse("long", "SELECT '"+strings.Repeat("x", 190_000)+"'")
			for name, messages := range map[string][]frontend{
				"in a batch": {parse("", "SELECT 1"), bind("", ""), execute("", 0), parse("more", text(100)), bind("", "more"), execute("", 0), synchronize},
				"long":       {long, synchronize},
			} {
				if name == "long" && test.settings.clientText == 0 { // nobody shares that
					continue
				}
				answer := say(c, messages...)
				if got := lastError(answer); got != "53400" {
					t.Errorf("%s: %v", name, answer)
				}
				if name == "in a batch" && pgtest.Types(answer) != "12DCEZ" {
					t.Errorf("in a batch: %s", pgtest.Types(answer))
				}
			}
			c.Query("BEGIN; SELECT 1")
			if got := lastError(say(c, parse("more", text(101)), synchronize)); got != "53400" {
				t.Errorf("in a block: %q", got)
			}
			if got := lastError(c.Query("SELECT 1")); got != "25P02" {
				t.Errorf("behind it: %q", got)
			}
			c.Query("ROLLBACK")
			// what it has goes on, and makes room when it is closed
			if got := lastError(say(greedy[0], bind("", "s0"), execute("", 0), synchronize)); got != "" {
				t.Errorf("a statement it has: %s", got)
			}
			other := w.client("user=other")
			for i := range 5 {
				if got := lastError(say(other, parse(fmt.Sprint("o", i), text(1000+i)), synchronize)); got != "" {
					t.Errorf("another one is told %s", got)
				}
			}
			if got := w.Stats().Resources[0].Pinned["large_statement"]; got != 0 {
				t.Errorf("%d sessions keep their server connection", got)
			}
			say(greedy[0], closing('S', "s0"), synchronize)
			if test.settings.clientText > 0 {
				if got := lastError(say(c, parse("more", text(102)), synchronize)); got != "" {
					t.Errorf("where there is room again: %s", got)
				}
			}
		})
	}
}

// What sessions prepare without a name, for one time, is nobody's share; long texts that nobody shares are, as are names.
func TestWhatCountsAsPrepared(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	filler := strings.Repeat("x", 10_000)
	w := start(t, settings{servers: 2, userText: 200_000})
	for i := range 50 {
		if got := lastError(say(w.client(), parse("", fmt.Sprintf("SELECT %d /*%s*/", i, filler)), bind("", ""), execute("", 0), synchronize)); got != "" {
			t.Fatalf("unnamed statement %d: %s", i, got)
		}
	}
	for name, statement := range map[string]func(i int) frontend{
		"long texts": func(i int) frontend {
			return parse(fmt.Sprint(i), fmt.Sprintf("SELECT %d /*%s*/", i, strings.Repeat("x", 30_000)))
		},
		"long names": func(i int) frontend { return parse(fmt.Sprint(i, filler), "SELECT 1") },
	} {
		refused := 0
		var clients []*pgtest.Client
		for i := range 40 {
			c := w.client()
			clients = append(clients, c)
			if lastError(say(c, statement(i), synchronize)) == "53400" {
				refused++
			}
		}
		if refused < 15 || refused > 35 {
			t.Errorf("%s: %d of 40 were refused", name, refused)
		}
		for _, c := range clients {
			c.Close()
		}
		w.eventually("nothing is held any more", func() bool { return w.Stats().Resources[0].Prepared["held"] == 0 })
		c := w.client()
		if got := lastError(say(c, parse("s", "SELECT /*"+filler+"*/ 2"), synchronize)); got != "" {
			t.Errorf("%s: where there is room again: %s", name, got)
		}
		c.Close()
	}
}

// Where several users fill what all clients share, they are told, and nobody else.
func TestWhoFillsWhatAllShareIsTold(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 2, userText: 40 << 20, users: map[string]string{"app": "x", "second": "x", "third": "x"}})
	filler := strings.Repeat("x", 15_000)
	fill := func(user string) (refused string) {
		c := w.client("user=" + user)
		for i := range 100 {
			var batch []frontend
			for j := range 25 {
				batch = append(batch, parse(fmt.Sprint("s", i, "_", j), fmt.Sprintf("SELECT '%s', %d /*%s*/", user, 25*i+j, filler)))
			}
			if code := lastError(say(c, append(batch, synchronize)...)); code != "" {
				return code
			}
		}
		return ""
	}
	first, second := fill("app"), fill("second")
	if first != "" || second != "53400" {
		t.Errorf("those who fill it are told %q and %q", first, second)
	}
	third := w.client("user=third")
	for i := range 100 {
		if got := lastError(say(third, parse(fmt.Sprint("s", i), fmt.Sprintf("SELECT %d", i)), synchronize)); got != "" {
			t.Fatalf("another one is told %s", got)
		}
	}
	if got := w.Stats().Resources[0].Pinned["large_statement"]; got != 0 {
		t.Errorf("%d sessions keep their server connection", got)
	}
}

// say sends what ends with a Sync, and returns the answer.
func say(c *pgtest.Client, messages ...frontend) []pgtest.Message {
	c.Send(messages...)
	return c.UntilReady(1)
}

// What a client sends without reading the answers does not pile up in weir.
func TestWhatIsAskedAtOnceIsBounded(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	w := start(t, settings{servers: 2})
	for name, batch := range map[string][]frontend{
		"Syncs":   {synchronize},
		"batches": {parse("", "SELECT 1"), bind("", ""), execute("", 0), synchronize},
		"queries": {query("SELECT 1")},
	} {
		c := w.client()
		unit := pgtest.Encode(batch...)
		const times = 50_000
		go c.SendBytes([]byte(strings.Repeat(string(unit), times)))
		answers := c.UntilReady(times)
		if got := lastError(answers); got != "" {
			t.Errorf("%s: %s", name, got)
		}
		if want := times * map[string]int{"Syncs": 1, "batches": 5, "queries": 4}[name]; len(answers) != want {
			t.Errorf("%s: %d messages, want %d", name, len(answers), want)
		}
	}
	one := w.client()
	const parses = 20_000 // in one batch, of which the server would say nothing before its end
	go func() {
		one.SendBytes([]byte(strings.Repeat(string(pgtest.Encode(parse("", "SELECT 1"))), parses)))
		one.Send(synchronize)
	}()
	if got := one.UntilReady(1); len(got) != parses+1 {
		t.Errorf("%d messages to %d Parses", len(got), parses)
	}
}
