package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// twoProcessors are the first and the last that this program may use.
func twoProcessors() (first, last int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0, 0, fmt.Errorf("which processors there are: %w", err)
	}
	if set.Count() < 2 {
		return 0, 0, errors.New("overload needs two processors, one for PostgreSQL and one for all else; there is one")
	}
	first = -1
	for cpu, seen := 0, 0; seen < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			seen++
			last = cpu
			if first < 0 {
				first = cpu
			}
		}
	}
	return first, last, nil
}

// confine keeps a process, all its threads and its child processes on one processor, and whatever they start later.
func confine(pid, processor int) error {
	var set unix.CPUSet
	set.Set(processor)
	done := map[int]bool{}
	for fresh := true; fresh; { // until a look finds no thread that was started meanwhile
		fresh = false
		for _, tid := range threads(pid) {
			if done[tid] {
				continue
			}
			if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("confine process %d to processor %d: %w", pid, processor, err)
			}
			done[tid], fresh = true, true
		}
	}
	for _, child := range childrenOf(pid) {
		if err := confine(child, processor); err != nil {
			return err
		}
	}
	return nil
}

func threads(pid int) (ids []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, task := range tasks {
		if id, err := strconv.Atoi(filepath.Base(task)); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// childrenOf are the processes that a process has started and that still run.
func childrenOf(pid int) (ids []int) {
	for _, tid := range threads(pid) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, tid))
		for field := range strings.FieldsSeq(string(b)) {
			if id, err := strconv.Atoi(field); err == nil {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// halve takes half their processor time from the child processes of pid until done is closed: they are stopped for as long
// as they have just run, a few milliseconds each time. PostgreSQL's first process is left alone, for it is who stops the
// others at the end.
func halve(pid int, done <-chan struct{}) {
	const slice, untilLook = 5 * time.Millisecond, 10
	runtime.LockOSThread()
	var victims []int
	defer func() { signalAll(victims, syscall.SIGCONT) }()
	for i := 0; ; i++ {
		if i%untilLook == 0 { // there may be new ones
			victims = childrenOf(pid)
		}
		running := time.Now()
		signalAll(victims, syscall.SIGCONT) // the first of them may take the processor before the last is told
		nap(slice)
		signalAll(victims, syscall.SIGSTOP)
		nap(time.Since(running)) // more than a slice, when this process did not get its turn
		select {
		case <-done:
			return
		default:
		}
	}
}

// unhalve lets go on whom a halve that was killed has left stopped.
func unhalve(pid int) { signalAll(childrenOf(pid), syscall.SIGCONT) }

func signalAll(pids []int, sig syscall.Signal) {
	for _, pid := range pids {
		_ = syscall.Kill(pid, sig) // it may have ended
	}
}

// nap sleeps more exactly than Go's timers do, which wait for network events meanwhile.
func nap(d time.Duration) {
	if d > 0 {
		ts := unix.NsecToTimespec(d.Nanoseconds())
		_ = unix.Nanosleep(&ts, nil)
	}
}
