package main

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// Nobody waits for a log that nobody reads; once it is read, it says how much is missing.
func TestALogThatNobodyReadsStopsNobody(t *testing.T) {
	r, out := io.Pipe() // holds nothing
	w := newLogWriter(out)
	log := slog.New(slog.NewTextHandler(w, nil))
	const lines = 3 * mostLines
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		for i := range lines {
			log.Info("a line", "number", i)
		}
	}()
	select {
	case <-logged:
	case <-time.After(20 * time.Second):
		t.Fatal("who logs waits for who reads")
	}
	dropped := w.dropped.Load()
	if dropped < lines-mostLines-1 {
		t.Errorf("%d lines were dropped of %d", dropped, lines)
	}
	read := make(chan string)
	go func() {
		var all []string
		for s := bufio.NewScanner(r); s.Scan(); {
			all = append(all, s.Text())
		}
		read <- strings.Join(all, "\n")
	}()
	w.Close()
	_ = out.Close()
	all := <-read
	if n := int64(strings.Count(all, "a line")); n != lines-dropped {
		t.Errorf("%d lines were written, %d dropped of %d", n, dropped, lines)
	}
	if want := fmt.Sprintf("%d lines were not logged", dropped); !strings.Contains(all, want) {
		t.Errorf("the log does not say %q", want)
	}
}

// What is logged last is written before the end.
func TestALogIsWrittenToItsEnd(t *testing.T) {
	var out strings.Builder
	w := newLogWriter(&out)
	for i := range 1000 {
		_, _ = fmt.Fprintf(w, "line %d\n", i)
	}
	w.Close()
	if !strings.HasSuffix(out.String(), "line 999\n") || strings.Count(out.String(), "\n") != 1000 {
		t.Errorf("it ends with %q", out.String()[max(0, out.Len()-100):])
	}
}

// A log that is never read does not keep the process from ending.
func TestALogThatIsNeverReadIsGivenUp(t *testing.T) {
	_, out := io.Pipe()
	w := newLogWriter(out)
	_, _ = fmt.Fprintln(w, "a line")
	began := time.Now()
	w.Close()
	if took := time.Since(began); took > 10*flushTime {
		t.Errorf("it took %v", took)
	}
}
