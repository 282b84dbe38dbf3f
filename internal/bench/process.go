package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// errExited is a child that ended although nobody stopped it.
var errExited = errors.New("process exited")

// command is one process to run. The zero value of a field means the ordinary thing.
type command struct {
	name  string // for messages and the name of its log
	argv  []string
	env   []string            // beside this program's own
	cred  *syscall.Credential // nil: as this program's user
	both  bool                // its standard error goes where its standard output goes, too
	death syscall.Signal      // sent by the kernel when this program dies (SIGKILL)
}

// children owns every process of a run; stopAll leaves none behind.
type children struct {
	dir   string      // where logs go
	spawn chan func() // served by one locked thread, see spawner

	mu      sync.Mutex // guards running; never held while waiting
	running []*child   // in order of start
}

func newChildren(dir string) *children {
	cs := &children{dir: dir, spawn: make(chan func())}
	go cs.spawner()
	return cs
}

// spawner starts all processes from one thread that lives as long as the program: the kernel sends a child's death
// signal when the thread that started it ends, not when the process does.
func (cs *children) spawner() {
	runtime.LockOSThread()
	for f := range cs.spawn {
		f()
	}
}

// child is a process that runs until stopped.
type child struct {
	name string
	pid  int
	log  string
	in   io.WriteCloser // its standard input; closing it asks a load generator to finish
	done chan struct{}  // closed when it has ended
	err  error          // valid after done
}

// start runs c in the background; its output goes to a log file, or its standard output to stdout where that is set.
func (cs *children) start(c command, stdout io.Writer) (*child, error) {
	log, err := os.OpenFile(filepath.Join(cs.dir, c.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()

	cmd := exec.Command(c.argv[0], c.argv[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Dir = cs.dir
	cmd.Stdout, cmd.Stderr = log, log
	if stdout != nil {
		cmd.Stdout = stdout
		if c.both {
			cmd.Stderr = stdout
		}
	}
	if c.death == 0 {
		c.death = syscall.SIGKILL
	}
	cmd.SysProcAttr = attributes(c.cred, c.death)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}

	started := make(chan error)
	cs.spawn <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	p := &child{name: c.name, pid: cmd.Process.Pid, log: log.Name(), in: in, done: make(chan struct{})}
	go p.wait(cmd)

	cs.mu.Lock()
	cs.running = append(cs.running, p)
	cs.mu.Unlock()
	return p, nil
}

func (p *child) wait(cmd *exec.Cmd) {
	p.err = cmd.Wait()
	close(p.done)
}

// output runs c to its end and returns what it printed on standard output, also when it has failed. The process is killed when ctx ends.
func (cs *children) output(ctx context.Context, c command) (string, error) {
	var out bytes.Buffer
	p, err := cs.start(c, &out)
	if err != nil {
		return "", err
	}
	defer cs.forget(p)
	p.in.Close()
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
		return "", ctx.Err()
	}
	if p.err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", c.name, p.err, tail(p.log, out.String()))
	}
	return out.String(), nil
}

// stop asks the process to end with sig and, should it not within grace, kills it.
func (cs *children) stop(p *child, sig syscall.Signal, grace time.Duration) {
	if p == nil {
		return
	}
	defer cs.forget(p)
	if !p.alive() {
		return
	}
	_ = syscall.Kill(p.pid, sig) // it may have gone by itself
	select {
	case <-p.done:
	case <-time.After(grace):
		p.kill()
	}
}

// stopAll ends what is still running, the last started first, so that clients go before proxies and proxies before
// PostgreSQL.
func (cs *children) stopAll() {
	cs.mu.Lock()
	left := slices.Clone(cs.running)
	cs.mu.Unlock()
	for _, p := range slices.Backward(left) {
		cs.stop(p, syscall.SIGINT, 5*time.Second)
	}
}

func (cs *children) forget(p *child) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.running = slices.DeleteFunc(cs.running, func(other *child) bool { return other == p })
}

func (p *child) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *child) kill() {
	if p.alive() {
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
		<-p.done
	}
}

// failure says how a process ended that should be running.
func (p *child) failure() error {
	if p.err == nil {
		return fmt.Errorf("%s: %w: %s", p.name, errExited, tail(p.log, ""))
	}
	return fmt.Errorf("%s: %w (%w): %s", p.name, errExited, p.err, tail(p.log, ""))
}

// tail is the end of a log and of what else was printed, on one line, for error messages. Of a Go program's panic it is the
// beginning, which says more.
func tail(path, more string) string {
	const most = 600
	b, _ := os.ReadFile(path)
	text := strings.TrimSpace(string(b) + "\n" + more)
	if _, after, ok := strings.Cut(text, "\npanic: "); ok {
		text = "panic: " + after[:min(len(after), most)]
	}
	text = text[max(0, len(text)-most):]
	return strings.ReplaceAll(text, "\n", " | ")
}

// cpuTime is the processor time, user and kernel, that the scheduler has accounted to the live threads of a process.
func cpuTime(pid int) (time.Duration, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(tasks) == 0 {
		return 0, fmt.Errorf("no /proc/%d/task/*/schedstat: process gone, or no scheduler statistics on this system", pid)
	}
	var total time.Duration
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended since
		}
		field, _, _ := strings.Cut(string(b), " ")
		ns, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", task, err)
		}
		total += time.Duration(ns)
	}
	return total, nil
}

// resident is the resident memory of a process in bytes.
func resident(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb * 1024, err
		}
	}
	return 0, fmt.Errorf("no VmRSS in /proc/%d/status", pid)
}

// unprivileged is who PostgreSQL and PgBouncer run as, for both refuse root: this program's own user (nil), or the
// user postgres when that is root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("as root this needs the user postgres (scripts/setup bench installs it): %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}
