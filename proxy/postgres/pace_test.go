//go:build !race

package postgres_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirproxy/weir/internal/pgtest"
)

// Whatever one client sends, a message costs no more the more of them there are. What is counted is the processor's time of this process, in
// which weir runs: that depends little on what else the machine does.
func TestAPipelineCostsNoMoreTheLongerItIs(t *testing.T) {
	pgtest.Shared(t)
	pgtest.NoLeaks(t)
	const (
		few, many = 64 << 10, 512 << 10
		dearest   = 20 * time.Microsecond  // a byte: most take a tenth of one, a short message that has to wait for an answer some
		trifle    = 200 * time.Millisecond // is not worth comparing
	)
	pipelines := 16
	if testing.Short() {
		pipelines = 4
	}
	seed := seed(t)
	w := start(t, settings{servers: 2, loops: 1})
	for i := range pipelines {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		unit := pgtest.Encode(wearyMessages(random)...)
		short, long := w.cost(t, unit, few), w.cost(t, unit, many)
		t.Logf("%d bytes %v, %d bytes %v: %.300q", few, short, many, long, unit)
		if long > trifle && long > 3*many/few*max(short, trifle*few/many) || long > dearest*many {
			t.Errorf("pipeline %d of seed %d: %d bytes cost %v, %d bytes %v", i, seed, few, short, many, long)
		}
	}
}

// wearyMessages are some messages that are tiresome when they are sent over and over.
func wearyMessages(random *rand.Rand) (all []frontend) {
	name := func() string { return string(rune('a' + random.IntN(3))) }
	vocabulary := []func() frontend{
		func() frontend { return synchronize },
		func() frontend { return flush },
		func() frontend { return parse("", wearyText(random)) },
		func() frontend { return parse(name(), wearyText(random)) },
		func() frontend { return parse(fmt.Sprint(random.IntN(1e6)), "SELECT 1") },
		func() frontend { return bind("", "") },
		func() frontend { return bind("", name()) },
		func() frontend { return bind(name(), name()) },
		func() frontend { return describe('S', name()) },
		func() frontend { return describe('P', "") },
		func() frontend { return execute("", 0) },
		func() frontend { return execute(name(), 1) },
		func() frontend { return closing('S', name()) },
		func() frontend { return closing('P', name()) },
		func() frontend { return query(wearyText(random)) },
		func() frontend { return data("x\n") },
		func() frontend { return copyDone },
	}
	for range 1 + random.IntN(10) {
		m := vocabulary[random.IntN(len(vocabulary))]()
		all = append(all, slices.Repeat([]frontend{m}, 1+random.IntN(2)*random.IntN(20))...)
	}
	if random.IntN(4) > 0 {
		all = append(all, synchronize)
	}
	return all
}

// wearyText is SQL of which not much is to be read, or so it seems.
func wearyText(random *rand.Rand) string {
	texts := []string{
		"SELECT 1", "selec", "", "SELECT pg_temp.f(", "BEGIN", "ROLLBACK", "DISCARD ALL", "DEALLOCATE a", "DEALLOCATE ALL", "EXECUTE b", "EXECUTE a",
		"SET search_path = public", "RESET ALL", "SET a.b = '1'", "COPY pg_temp.x FROM STDIN", "COPY (SELECT 1) TO STDOUT", "SELECT lastval()",
		"DO $$BEGIN EXECUTE 'DEALLOCATE b'; END$$", "SELECT set_config('a.b', '1', false)", "SELECT 1/0", "CREATE TEMP TABLE IF NOT EXISTS x (v text)",
	}
	text := texts[random.IntN(len(texts))]
	if random.IntN(4) == 0 {
		words := []string{"set /*", "set --", "set_config(", "'", "$a$", "(", "set a.b", "do ", ";", "set ", "ts_stat('a', "}
		text += " /*" + strings.Repeat(words[random.IntN(len(words))], random.IntN(1500)) + "*/"
	}
	return text
}

// cost is the processor's time that it takes until a client has said so many bytes, unit over and over, and is rid of, or a time has passed.
func (w *weir) cost(t *testing.T, unit []byte, bytes int) time.Duration {
	t.Helper()
	c, written := w.client(), make(chan struct{})
	_ = c.Conn().SetDeadline(time.Now().Add(20 * time.Second))
	wire := slices.Concat(slices.Repeat(unit, max(1, bytes/len(unit))), pgtest.Encode(terminate))
	before := processorTime(t)
	go func() {
		defer close(written)
		_, _ = c.Conn().Write(wire)
	}()
	drain(c)
	spent := processorTime(t) - before
	c.Close()
	<-written
	return spent
}

func processorTime(t *testing.T) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
