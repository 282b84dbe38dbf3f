package eventloop_test

import (
	"sync"
	"testing"
	"time"

	"github.com/weirproxy/weir/eventloop"
	"github.com/weirproxy/weir/internal/pgtest"
)

// The counters are plain: the race detector says if two tasks of a loop ever run at the same time.
func TestTasksFromManyGoroutinesAllRunInOrder(t *testing.T) {
	pgtest.NoLeaks(t)
	g := group(t, 2)
	const goroutines, each = 16, 2000
	for _, l := range g.Loops() {
		var posting, running sync.WaitGroup
		var last [goroutines]int
		running.Add(goroutines * each)
		for p := range goroutines {
			posting.Go(func() {
				for i := range each {
					l.Post(eventloop.TaskFunc(func() {
						if last[p] != i {
							t.Errorf("goroutine %d: task %d ran after %d others", p, i, last[p])
						}
						last[p]++
						running.Done()
					}))
				}
			})
		}
		posting.Wait()
		running.Wait()
	}
}

// A loop that is about to sleep when a task is posted must not sleep over it.
func TestNoTaskIsSleptOver(t *testing.T) {
	g := group(t, 2)
	a, b := g.Loops()[0], g.Loops()[1]
	done := make(chan struct{})
	n := 0
	var ping, pong eventloop.TaskFunc
	ping = func() {
		if n++; n == 20_000 {
			close(done)
			return
		}
		b.Post(pong)
	}
	pong = func() { a.Post(ping) }
	a.Post(ping)
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("a task was never run")
	}
}

func TestTasksOfATaskRunInTheNextRound(t *testing.T) {
	l := group(t, 1).Loops()[0]
	done := make(chan []string)
	l.Post(eventloop.TaskFunc(func() {
		var order []string
		l.Post(eventloop.TaskFunc(func() {
			order = append(order, "posted")
			done <- order
		}))
		order = append(order, "posting")
	}))
	if got := <-done; got[0] != "posting" || got[1] != "posted" {
		t.Errorf("ran in the order %v", got)
	}
}

func TestATimerWakesASleepingLoop(t *testing.T) {
	l := group(t, 1).Loops()[0]
	var timer eventloop.Timer
	fired := make(chan time.Duration)
	l.Post(eventloop.TaskFunc(func() {
		began := l.Now()
		l.Arm(&timer, 30*time.Millisecond, eventloop.TaskFunc(func() { fired <- time.Duration(l.Now() - began) }))
	}))
	select {
	case after := <-fired:
		if after < 30*time.Millisecond {
			t.Errorf("fired after %v, want 30ms at least", after)
		}
	case <-time.After(patience):
		t.Fatal("the timer has not fired")
	}
}

func TestADisarmedTimerDoesNotFire(t *testing.T) {
	l := group(t, 1).Loops()[0]
	var first, second eventloop.Timer
	fired := make(chan string, 2)
	l.Post(eventloop.TaskFunc(func() {
		l.Arm(&first, 5*time.Millisecond, eventloop.TaskFunc(func() { fired <- "first" }))
		l.Arm(&second, 20*time.Millisecond, eventloop.TaskFunc(func() { fired <- "second" }))
		l.Disarm(&first)
	}))
	if got := <-fired; got != "second" {
		t.Errorf("the %s timer fired", got)
	}
}
