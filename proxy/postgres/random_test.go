package postgres_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/weirproxy/weir/internal/pgtest"
)

// Any pipeline whatsoever is answered as by the server, on a server connection that is another one after each exchange, while
// strangers prepare the same statements under the same names on all of them (traps 15 to 26). WEIR_TEST_SEED repeats a run.
func TestRandomPipelinesAreAnsweredAsByTheServer(t *testing.T) {
	seed := seed(t)
	pgtest.Each(t, func(t *testing.T, pg *pgtest.Postgres) { randomPipelines(t, pg, seed) })
}

// seed is that of a test's random choices: the same each time, so that what passes goes on passing; the number in WEIR_TEST_SEED, to
// repeat a run; or, where that says random, any. make fuzz looks for new ones.
func seed(t *testing.T) uint64 {
	seed := uint64(1)
	switch s := os.Getenv("WEIR_TEST_SEED"); s {
	case "":
	case "random":
		seed = rand.Uint64()
	default:
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("WEIR_TEST_SEED: %v; expected a number, or random", err)
		}
	}
	t.Logf("seed %d", seed)
	return seed
}

func randomPipelines(t *testing.T, pg *pgtest.Postgres, seed uint64) {
	const scripts, exchanges = 80, 12
	w := start(t, settings{servers: 2, upstream: pg.DSN()})
	switches := 0
	gentle := one(t, pgtest.Connect(t, pg.DSN()).Query("SELECT current_setting('server_version_num')::int >= 180000")) == "t"
	for i := range scripts {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		s, noise := scenario{script: randomScript(random, exchanges, gentle)}, randomScript(random, exchanges, gentle)
		direct, c, others := pgtest.Connect(t, pg.DSN()), w.client(), occupy(t, w)
		want := straight(t, s, direct)
		at := 0
		got := s.run(c, func(last []pgtest.Message) {
			said := noise[at : at+1]
			if at++; last[len(last)-1].Body[0] != 'I' || !others.mayTakeOver(false) {
				return
			}
			switches++
			others.takeOver()
			straight(t, scenario{script: said}, others.holder)
			others.holder.Query("ROLLBACK")
			others.holder.Query("BEGIN; SELECT 1") // it keeps the connection
		})
		for j := range want {
			if (j > 0 && failedBlock(want[j-1]) || failsWithin(want[j])) && unprepared(want[j], got[j]) {
				break
			}
			pgtest.Compare(t, want[j], got[j])
			if t.Failed() {
				t.Fatalf("script %d of seed %d, in exchange %d: %s", i, seed, j, sentIn(s.script[:j+1]))
			}
		}
		for _, client := range []*pgtest.Client{direct, c, others.holder} {
			client.Close()
		}
		w.eventually("both connections are free", func() bool { return w.servers("used") == 0 })
	}
	t.Logf("%d times on another connection", switches)
	if switches < scripts {
		t.Error("that was no switching")
	}
}

// failedBlock reports whether an answer ends in a transaction block that has failed.
func failedBlock(answer []pgtest.Message) bool {
	return len(answer) > 0 && answer[len(answer)-1].Body[0] == 'E'
}

// failsWithin reports whether a transaction block has failed in the middle of an answer.
func failsWithin(answer []pgtest.Message) bool {
	return slices.ContainsFunc(answer, func(m pgtest.Message) bool { return m.Type == 'Z' && m.Body[0] == 'E' })
}

// unprepared reports whether got differs from want because nothing can be prepared in a failed transaction block, not even what the
// client has prepared before on another server connection: it reads 25P02 where the server had other things to say first.
func unprepared(want, got []pgtest.Message) bool {
	for i := range min(len(want), len(got)) {
		if want[i].String() != got[i].String() {
			return got[i].Type == 'E' && got[i].Field('C') == "25P02"
		}
	}
	return false
}

// randomScript is exchanges of several batches each, in one write. gentle is that there is no query behind an Execute within a batch, for
// which PostgreSQL 18 fails the next statement.
func randomScript(random *rand.Rand, exchanges int, gentle bool) (script []exchange) {
	names := []string{"", "a", "b", "a"}
	texts := []string{
		"SELECT 1", "SELECT 'x', 2", "SELECT $1::text", "SELECT 1", "SELEC", "SELECT 1/0", "BEGIN", "COMMIT", "ROLLBACK",
		"SET LOCAL work_mem = '5MB'", "SHOW application_name",
	}
	texts = append(texts, "DEALLOCATE a", "DEALLOCATE b", "DEALLOCATE ALL")
	queries := append(texts, "DEALLOCATE b", "EXECUTE b", "EXECUTE a", "BEGIN; SELECT 1", "SELECT 2; SELECT 3", "SELECT 4", "DEALLOCATE ALL", "DEALLOCATE a", "SET application_name = 'random'", "RESET ALL")
	portals := []string{"", "", "p"}
	pick := func(list []string) string { return list[random.IntN(len(list))] }
	for range exchanges {
		var messages []frontend
		readies, within := 0, random.IntN(3) == 0
		for range 1 + random.IntN(3) {
			if random.IntN(4) == 0 {
				messages = append(messages, query(pick(queries)))
				readies++
				continue
			}
			mayBreak := within
			for range random.IntN(6) {
				switch random.IntN(10) {
				case 0, 1, 2:
					messages = append(messages, parse(pick(names), pick(texts)))
				case 3, 4:
					b := &pgproto3.Bind{DestinationPortal: pick(portals), PreparedStatement: pick(names)}
					if random.IntN(4) == 0 {
						b.Parameters = [][]byte{[]byte("p")}
					}
					messages = append(messages, b)
					if random.IntN(4) > 0 {
						messages = append(messages, execute(pick(portals), 0))
						mayBreak = mayBreak && !gentle
					}
				case 5:
					messages = append(messages, describe('S', pick(names)))
				case 6:
					messages = append(messages, closing('S', pick(names)))
				case 7:
					messages = append(messages, describe('P', pick(portals)))
				case 8:
					messages = append(messages, flush)
				case 9:
					if mayBreak {
						messages = append(messages, query(pick(queries)))
					}
				}
			}
			messages = append(messages, synchronize)
			readies++
		}
		if within { // how often the server is ready depends on whether those within batches are skipped
			script = append(script, emptied(messages...))
		} else {
			script = append(script, ready(readies, messages...))
		}
	}
	return script
}

// emptied sends messages and an empty query, and awaits that this is answered.
func emptied(messages ...frontend) exchange {
	return exchange{wire: pgtest.Encode(append(messages, query(""))...), until: func() func(pgtest.Message) bool {
		empty := false
		return func(m pgtest.Message) bool {
			empty = empty || m.Type == 'I'
			return empty && m.Type == 'Z'
		}
	}}
}

// sentIn names the messages of exchanges, to repeat them by hand.
func sentIn(script []exchange) (all string) {
	for i, e := range script {
		all += fmt.Sprintf("\n%d: %q", i, e.wire)
	}
	return all
}
