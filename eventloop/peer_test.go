package eventloop_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/weirproxy/weir/eventloop"
)

// idle is a Conn on which nothing is read.
type idle struct{ conn eventloop.Conn }

func (i *idle) Ready(_ *eventloop.Loop, e eventloop.Events) { i.conn.Note(e) }

// A peer that keeps its side of a connection open, after ours has ended, holds it until it closes.
func TestAPeerThatDoesNotCloseHoldsTheConnection(t *testing.T) {
	g := group(t, 1)
	l := g.Loops()[0]
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ours, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := eventloop.Take(ours)
	if err != nil {
		t.Fatal(err)
	}
	i := &idle{}
	holds := func() (held bool) {
		on(l, func() { held = i.conn.PeerHolds() })
		return held
	}
	on(l, func() {
		if err := i.conn.Attach(l, fd, nil, i); err != nil {
			t.Error(err)
		}
	})
	if holds() {
		t.Error("held before we have ended")
	}
	on(l, i.conn.CloseWrite)
	if _, err := io.ReadAll(theirs); err != nil { // it has our end
		t.Fatal(err)
	}
	until := func(held bool) { // a system may take its time to confirm an end
		t.Helper()
		for deadline := time.Now().Add(patience); holds() != held; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("held by the peer: not %v", held)
			}
		}
	}
	until(true)
	_ = theirs.Close()
	until(false)
	on(l, i.conn.Close)
}

// on runs f on a loop, and waits for it.
func on(l *eventloop.Loop, f func()) {
	done := make(chan struct{})
	l.Post(eventloop.TaskFunc(func() { f(); close(done) }))
	<-done
}
