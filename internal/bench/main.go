package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "client" {
		if err := clientMain(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	only        string
	quick       bool
	write       string
	weir        string
	before      string
	withoutWeir bool
	limit       time.Duration
	scenarios   string
}

// bench is one run.
type bench struct {
	options
	lab     *lab
	results results
	files   uint64 // how many file descriptors a process may have
}

// parts are what can be measured, in this order.
var parts = []struct {
	name string
	run  func(*bench, context.Context) error
}{
	{"relay", (*bench).relay},
	{"reset", (*bench).reset},
	{"login", (*bench).login},
	{"storm", (*bench).storm},
	{"mixed", (*bench).mixed},
	{"idle", (*bench).idle},
	{"harm", (*bench).harm},
	{overloadPart, (*bench).overload},
}

// overloadPart is measured alone, and only when it is asked for: it confines this program and PostgreSQL to a processor each.
const overloadPart = "overload"

func run() (err error) {
	var o options
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	flag.StringVar(&o.only, "only", strings.Join(names[:len(names)-1], ","), "parts to measure; overload is one to be measured alone")
	flag.StringVar(&o.scenarios, "scenarios", "all", "of overload: "+strings.Join(scenarioNames(), ","))
	flag.BoolVar(&o.quick, "quick", false, "fewer and shorter rounds")
	flag.StringVar(&o.write, "write", "", "put the results into this Markdown `file`, between its marks")
	flag.StringVar(&o.weir, "weir", "", "measure this `binary` (default: built from ./cmd/weir)")
	flag.StringVar(&o.before, "before", "", "measure this `binary` of weir's, too, where queries and logins are compared")
	flag.BoolVar(&o.withoutWeir, "without-weir", false, "measure PgBouncer and PostgreSQL only")
	flag.DurationVar(&o.limit, "limit", 45*time.Minute, "give up after this long")
	flag.Parse()
	wanted := strings.Split(o.only, ",")
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			return fmt.Errorf("-only %s: the parts are %s", name, strings.Join(names, ", "))
		}
	}
	if slices.Contains(wanted, overloadPart) {
		if len(wanted) > 1 {
			return fmt.Errorf("-only %s: overload is measured alone, for it confines this program to one processor", o.only)
		}
		if err := overloadCan(o.scenarios); err != nil {
			return err
		}
	}
	if flag.NArg() > 0 {
		return fmt.Errorf("argument %q is not known", flag.Arg(0))
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()

	b := &bench{options: o}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	defer b.lab.remove()
	defer b.lab.children.stopAll()
	if err := b.lab.setUp(ctx); err != nil {
		return err
	}
	b.describe(ctx)

	start := time.Now()
	for _, p := range parts {
		if !slices.Contains(wanted, p.name) {
			continue
		}
		if err := p.run(b, ctx); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("stopped while measuring %s: %w", p.name, context.Cause(ctx))
			}
			b.progress("%s failed: %v", p.name, err)
			b.results.failures = append(b.results.failures, p.name+": "+err.Error())
		}
	}
	b.about("took", time.Since(start).Round(time.Second).String())
	b.results.text(os.Stdout)
	if o.write != "" {
		if err := b.results.write(o.write); err != nil {
			return err
		}
	}
	if len(b.results.failures) > 0 {
		return fmt.Errorf("%d of the parts failed", len(b.results.failures))
	}
	return nil
}

// prepare makes what the rest of the run needs: a directory, weir's binary, and room for thousands of descriptors.
func (b *bench) prepare(ctx context.Context) (err error) {
	if b.files, err = raiseFiles(); err != nil {
		return err
	}
	l := &lab{weir: b.weir}
	if l.cred, err = unprivileged(); err != nil {
		return err
	}
	if l.self, err = os.Executable(); err != nil {
		return err
	}
	if l.dir, err = os.MkdirTemp("", "weir-bench-"); err != nil {
		return err
	}
	if b.before != "" {
		if l.before, err = filepath.Abs(b.before); err != nil {
			return err
		}
	}
	b.lab = l
	l.children = newChildren(l.dir)
	defer func() {
		if err != nil {
			l.remove()
		}
	}()
	if err := os.Chmod(l.dir, 0o755); err != nil { // PostgreSQL's user must be able to pass through
		return err
	}
	switch {
	case b.withoutWeir:
		l.weir = ""
	case l.weir != "":
		l.weir, err = filepath.Abs(l.weir)
	default:
		l.weir = filepath.Join(l.dir, "weir")
		build := exec.CommandContext(ctx, "go", "build", "-o", l.weir, "./cmd/weir")
		build.Stderr = os.Stderr
		if err = build.Run(); err != nil {
			err = fmt.Errorf("go build ./cmd/weir: %w (from the top of the repository, or with -weir BINARY or -without-weir)", err)
		}
	}
	return err
}

// raiseFiles lifts the limit on open files as far as it goes, for this process and those it starts.
func raiseFiles() (uint64, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit on open files: %w", err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit on open files: %w", err)
	}
	return limit.Cur, nil
}

// mostClients is how many connections a proxy can hold here, with some descriptors left for itself.
func (b *bench) mostClients() int { return int(min(b.files, maxClients)) - 300 }

// rounds and length scale a full run's figures down to a quick one's.
func (b *bench) rounds(full int) int {
	if b.quick {
		return max(1, full/2)
	}
	return full
}

func (b *bench) length(seconds int) int {
	if b.quick {
		return max(2, seconds/2)
	}
	return seconds
}

func (b *bench) about(key, value string) {
	b.results.about = append(b.results.about, [2]string{key, value})
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// describe records what the figures are worth: the command, the versions and the machine.
func (b *bench) describe(ctx context.Context) {
	b.about("command", "`"+strings.Join(append([]string{"go run ./internal/bench"}, os.Args[1:]...), " ")+"`")
	b.about("date", time.Now().UTC().Format("2006-01-02 15:04 UTC"))
	if b.lab.weir != "" {
		b.about("weir", cmp.Or(saysItIs(ctx, "git", "describe", "--always", "--dirty"), "unknown revision")+", "+runtime.Version())
	}
	b.about("PostgreSQL", saysItIs(ctx, filepath.Join(b.lab.pgbin, "postgres"), "--version"))
	b.about("PgBouncer", saysItIs(ctx, b.lab.bouncer, "--version"))
	b.about("machine", fmt.Sprintf("%s, %d cores, kernel %s", processor(), runtime.NumCPU(), saysItIs(ctx, "uname", "-sr")))
	busy, err := machineBusy(time.Second)
	if err == nil {
		b.about("busy before the run", fmt.Sprintf("%.0f %% of the machine", 100*busy))
	}
	if busy > 0.1 {
		b.progress("the machine is %.0f %% busy with something else: expect noise", 100*busy)
	}
}
