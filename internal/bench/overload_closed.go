package main

import (
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// closedServers is how many server connections there are for closed loops: clients of whom each asks anew when it has its answer, and who
// therefore slow down by themselves.
const closedServers = 10

// script is what the clients of a closed loop do, by pgbench's options.
type script struct {
	name string
	argv []string
}

var closedScripts = []script{
	{"TPC-B, simple", []string{"-M", "simple"}},
	{"TPC-B, extended", []string{"-M", "extended"}},
	{"select, simple", []string{"-M", "simple", "-S"}},
	{"select, extended", []string{"-M", "extended", "-S"}},
}

// loop is what came of a closed loop.
type loop struct {
	clients   int
	refused   int     // clients, each of which has ended with it
	lately    int     // of them, more than five seconds after the begin
	perSecond float64 // transactions
	p50, p99  float64 // milliseconds that transactions took
	said      string  // with a refusal
}

var (
	abortedLine = regexp.MustCompile(`client \d+ .*(aborted|script \d+ aborted)`)
	errorLine   = regexp.MustCompile(`ERROR:  .*|DETAIL:  .*`)
)

// early is the time in which it may have to be learnt for how long clients wait.
const early = 5 * time.Second

// crowd has clients on one side ask one thing after another.
func (st *stage) crowd(ctx context.Context, s *side, sc script, clients int, length time.Duration) (loop, error) {
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		return loop{}, err
	}
	dir, err := os.MkdirTemp(st.lab.dir, "closed")
	if err != nil {
		return loop{}, err
	}
	defer os.RemoveAll(dir)
	argv := append([]string{
		st.lab.pgbench, "-h", host, "-p", port, "-U", benchUser, "-n", "-c", strconv.Itoa(clients), "-j", "1",
		"-T", strconv.Itoa(int(length.Seconds())), "--log", "--log-prefix", filepath.Join(dir, "log"),
	}, sc.argv...)
	ctx, cancel := context.WithTimeout(ctx, length+patience)
	defer cancel()
	began := time.Now()
	text, err := st.lab.children.output(ctx, command{name: "pgbench", argv: append(argv, benchDatabase), env: pgEnv(s.tls), both: true})
	if ctx.Err() != nil {
		return loop{}, ctx.Err()
	}
	out := loop{clients: clients, refused: len(abortedLine.FindAllString(text, -1))}
	if said := errorLine.FindAllString(text, 2); len(said) > 0 {
		out.said = strings.Join(said, "; ")
	}
	if err != nil && out.refused == 0 {
		return loop{}, fmt.Errorf("%s: %w: %.300s", s.name, err, text)
	}
	if m := tpsLine.FindStringSubmatch(text); m != nil {
		out.perSecond, _ = strconv.ParseFloat(m[1], 64)
	}
	return out, out.read(dir, began)
}

// read takes in the log of transactions: client, number, microseconds, script, and when it ended.
func (l *loop) read(dir string, began time.Time) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	last := map[string]float64{} // when each client was served last, in seconds since 1970
	var took []time.Duration
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			field := strings.Fields(line)
			if len(field) < 6 {
				continue
			}
			micros, err := strconv.ParseInt(field[2], 10, 64)
			if err != nil {
				continue
			}
			seconds, _ := strconv.ParseFloat(field[4]+"."+fmt.Sprintf("%06s", field[5]), 64)
			last[field[0]] = seconds
			took = append(took, time.Duration(micros)*time.Microsecond)
		}
	}
	slices.Sort(took)
	l.p50, l.p99 = quantile(took, .5), quantile(took, .99)
	if l.refused > 0 { // who was served late, and not to the end, was refused late
		end, longest := 0.0, quantile(took, 1)/1e3
		for _, at := range last {
			end = max(end, at)
		}
		for _, at := range last {
			if at > float64(began.Add(early).UnixNano())/1e9 && at < end-2*longest {
				l.lately++
			}
		}
	}
	return nil
}

// closed is what becomes of clients that slow down by themselves: a pool of warm functions, or pgbench.
func (st *stage) closed(ctx context.Context) error {
	sides, stop, err := st.lab.start(ctx, variant{servers: closedServers}, pgbouncer, weir, before)
	if err != nil {
		return err
	}
	defer stop()
	table := section{
		title:  "Closed loops",
		note:   fmt.Sprintf("pgbench, each client asks anew when it has its answer; %d server connections, defaults. A client that is refused ends.", closedServers),
		header: []string{"clients", "transactions", "side", "refused", "transactions/s", "p50", "p99", "N/throughput"},
	}
	counts := []int{20, 60, 200, 500, 1000}
	if st.quick {
		counts = []int{60, 500}
	}
	soon, later, least, worst := 0, 0, math.Inf(1), 0.0
	for _, sc := range closedScripts {
		for i, n := range counts {
			all := map[string]loop{}
			for _, s := range turns(sides, i) {
				st.progress("closed, %s, %d clients: %s", sc.name, n, s.name)
				l, err := st.crowd(ctx, s, sc, n, st.span(8, 3))
				if err != nil {
					return err
				}
				all[s.name] = l
			}
			for _, s := range sides {
				l := all[s.name]
				table.rows = append(table.rows, []string{
					fmt.Sprint(n), sc.name, s.name, fmt.Sprint(l.refused), number("%.0f", l.perSecond), number("%.1f ms", l.p50), number("%.1f ms", l.p99),
					number("%.0f ms", 1e3*float64(n)/l.perSecond),
				})
			}
			l, theirs := all[weir], all[pgbouncer]
			if l.said != "" {
				st.progress("%s", l.said)
			}
			if float64(n)/l.perSecond < .4 {
				soon += l.refused
			}
			if float64(n)/l.perSecond < 1.6 {
				later += l.lately
			}
			least = min(least, l.perSecond/theirs.perSecond)
			worst = max(worst, l.p99/l.p50)
		}
	}
	st.results.section(table)
	st.results.goal("clients of closed loops refused where N/throughput is below 400 ms", atMost, 0, float64(soon), "%.0f", "PgBouncer 0")
	st.results.goal("refused after five seconds where it is below 1.6 s", atMost, 0, float64(later), "%.0f", "PgBouncer 0")
	st.results.goal("closed loops: throughput to PgBouncer's, the least", atLeast, .97, least, "%.2f×", "")
	st.results.goal("closed loops: p99 to p50, the most", atMost, 1.5, worst, "%.1f×", "")
	return nil
}

// think is what becomes of functions that do something else for 5 to 50 ms between two transactions.
func (st *stage) think(ctx context.Context) error {
	sides, stop, err := st.lab.start(ctx, variant{servers: closedServers}, pgbouncer, weir)
	if err != nil {
		return err
	}
	defer stop()
	path := filepath.Join(st.lab.dir, "think.sql")
	text := "\\set a random(1, 100000)\nSELECT abalance FROM pgbench_accounts WHERE aid = :a;\n\\set pause random(5000, 50000)\n\\sleep :pause us\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	table := section{
		title:  "Functions that think",
		note:   fmt.Sprintf("5 to 50 ms between two transactions of one; %d server connections.", closedServers),
		header: []string{"functions", "side", "refused", "transactions/s", "p50 with the pause", "p99"},
	}
	counts := []int{300, 1000, 3000}
	if st.quick {
		counts = counts[:2]
	}
	refused := 0
	for i, n := range counts {
		n = min(n, st.mostClients())
		for _, s := range turns(sides, i) {
			st.progress("think, %d functions: %s", n, s.name)
			l, err := st.crowd(ctx, s, script{"think", []string{"-f", path}}, n, st.span(8, 3))
			if err != nil {
				return err
			}
			if s.name == weir {
				refused += l.refused
			}
			table.rows = append(table.rows, []string{
				fmt.Sprint(n), s.name, fmt.Sprint(l.refused), number("%.0f", l.perSecond), number("%.1f ms", l.p50), number("%.1f ms", l.p99),
			})
		}
	}
	st.results.section(table)
	st.results.goal("functions that think refused", atMost, 0, float64(refused), "%.0f", "")
	return nil
}

// standstills are what keeps the database from doing anything for a while.
var standstills = []struct {
	name  string
	lasts time.Duration
	begin func(*stage, context.Context, time.Duration) error // returns when it is over
}{
	{"stopped for 200 ms", 200 * time.Millisecond, (*stage).stopPostgres},
	{"stopped for 1 s", time.Second, (*stage).stopPostgres},
	{"stopped for 4 s", 4 * time.Second, (*stage).stopPostgres},
	{"a table locked for 1 s", time.Second, (*stage).lockTable},
	{"a table locked for 4 s", 4 * time.Second, (*stage).lockTable},
}

// stall is what becomes of 200 closed clients when nothing comes to its end for a while.
func (st *stage) stall(ctx context.Context) error {
	sides, stop, err := st.lab.start(ctx, variant{servers: closedServers, ini: "query_wait_timeout = 120\n"}, pgbouncer, weir)
	if err != nil {
		return err
	}
	defer stop()
	table := section{
		title:  "Nothing comes to its end for a while",
		note:   "All processes of PostgreSQL are stopped (SIGSTOP), or a table is locked, three seconds after the begin, beside 200 clients in closed loops. queue.wait is 2 s: who waits for longer is refused.",
		header: []string{"", "side", "refused", "transactions/s"},
	}
	refused := 0
	for i, still := range standstills {
		for _, s := range turns(sides, i) {
			st.progress("stall, %s: %s", still.name, s.name)
			over := make(chan error, 1)
			go func() {
				if err := sleep(ctx, 3*time.Second); err != nil {
					over <- err
					return
				}
				over <- still.begin(st, ctx, still.lasts)
			}()
			l, err := st.crowd(ctx, s, closedScripts[0], 200, 10*time.Second)
			if failed := <-over; err == nil {
				err = failed
			}
			if err != nil {
				return err
			}
			if s.name == weir && still.lasts < 2*time.Second {
				refused += l.refused
			}
			table.rows = append(table.rows, []string{still.name, s.name, fmt.Sprint(l.refused), number("%.0f", l.perSecond)})
		}
	}
	st.results.section(table)
	st.results.goal("refused for a standstill that is shorter than queue.wait", atMost, 0, float64(refused), "%.0f", "")
	return nil
}

// lockTable locks what all transactions want, for a time.
func (st *stage) lockTable(ctx context.Context, length time.Duration) error {
	c, err := dial(ctx, st.lab.postgres.target())
	if err != nil {
		return err
	}
	defer c.Close()
	sql := fmt.Sprintf("BEGIN; LOCK TABLE pgbench_accounts; SELECT pg_sleep(%g); COMMIT", length.Seconds())
	return c.query(message('Q', []byte(sql+"\x00")))
}

// stopPostgres stops all of the server's processes for a time.
func (st *stage) stopPostgres(ctx context.Context, length time.Duration) error {
	pids := append(childrenOf(st.lab.postgres.proc.pid), st.lab.postgres.proc.pid)
	defer signalAll(pids, syscall.SIGCONT)
	signalAll(pids, syscall.SIGSTOP)
	select {
	case <-time.After(length):
	case <-ctx.Done():
	}
	return nil
}
