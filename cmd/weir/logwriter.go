package main

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// A log that nobody reads (a full pipe, a stuck terminal, a slow disk) must not stop what is logged: lines wait for their turn in memory,
// so many of them, and further ones are dropped and counted.
const (
	mostLines   = 4096
	mostWaiting = 4 << 20 // bytes of them
	flushTime   = time.Second
)

// logWriter writes lines, each given to it by one Write, to out, in the background.
type logWriter struct {
	out     io.Writer
	lines   chan []byte
	waiting atomic.Int64 // bytes
	dropped atomic.Int64 // lines
	told    int64        // how many of those the log has been told of
	closed  chan struct{}
	done    chan struct{}
}

func newLogWriter(out io.Writer) *logWriter {
	w := &logWriter{out: out, lines: make(chan []byte, mostLines), closed: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w
}

// Write takes a line, or drops it. It never waits, and never fails.
func (w *logWriter) Write(line []byte) (int, error) {
	n := int64(len(line))
	if w.waiting.Add(n) <= mostWaiting {
		select {
		case w.lines <- append([]byte(nil), line...):
			return len(line), nil
		default:
		}
	}
	w.waiting.Add(-n)
	w.dropped.Add(1)
	return len(line), nil
}

func (w *logWriter) run() {
	defer close(w.done)
	for {
		select {
		case line := <-w.lines:
			w.write(line)
		case <-w.closed:
			for len(w.lines) > 0 {
				w.write(<-w.lines)
			}
			return
		}
	}
}

func (w *logWriter) write(line []byte) {
	_, _ = w.out.Write(line)
	w.waiting.Add(-int64(len(line)))
	if dropped := w.dropped.Load(); dropped > w.told {
		_, _ = fmt.Fprintf(w.out, "%d lines were not logged, because the log was not read in time\n", dropped-w.told)
		w.told = dropped
	}
}

// Close waits until all has been written, but not for long.
func (w *logWriter) Close() {
	close(w.closed)
	select {
	case <-w.done:
	case <-time.After(flushTime):
	}
}
