package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/weirproxy/weir/internal/pgtest"
)

func TestDemoShowsAndTidiesUp(t *testing.T) {
	pgtest.NoLeaks(t)
	t.Setenv("TMPDIR", t.TempDir())
	got := weirRun(t, "demo", "--functions=40")
	if got.code != exitOK || got.stderr != "" {
		t.Fatalf("exit code %d, stderr %q\n%s", got.code, got.stderr, got.stdout)
	}
	for _, pattern := range []string{
		`(?m)^  functions use   postgres://fn:fn-secret@127\.0\.0\.1:\d+/orders`,
		`(?m)^  admin           http://127\.0\.0\.1:\d+/metrics, /healthz, /readyz$`,
		`(?m)^40 functions start at once`,
		`(?m)^  straight +\d+ +\d+ +\d+ +\d+ +[\d.]+ ms`,
		`(?m)^  through weir +40 +0 +(\d|10) +(\d|10) +[\d.]+ ms`, // nobody failed, within the budget of 10
		`(?m)^  ERROR:  rate limit exceeded \(SQLSTATE 53400\)$`,
		`(?m)^  DETAIL: not executed; id=\w+ rule=resources\.trickle\.rate `,
		`(?m)^  HINT:   retry after \d+ ms$`,
		`(?m)^  weir_admitted_total\{.*resource="orders"\} 200$`,
		`(?m)^Everything is stopped and removed again\.`,
	} {
		if !regexp.MustCompile(pattern).MatchString(got.stdout) {
			t.Errorf("nothing matches %s", pattern)
		}
	}
	if t.Failed() {
		t.Log(got.stdout)
	}
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		t.Errorf("%s is left behind", entry.Name())
	}
}

func TestDemoStaysUntilInterrupted(t *testing.T) {
	pgtest.NoLeaks(t)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	stdout, w := io.Pipe()
	exit := make(chan int, 1)
	var stderr bytes.Buffer
	go func() {
		exit <- run(ctx, []string{"demo", "--functions=5", "--stay"}, w, &stderr)
		_ = w.Close()
	}()
	var text strings.Builder
	var dsn string
	for chunk := make([]byte, 4096); dsn == ""; {
		n, err := stdout.Read(chunk)
		text.Write(chunk[:n])
		if err != nil {
			t.Fatalf("%v after\n%s%s", err, text.String(), stderr.String())
		}
		if match := regexp.MustCompile(`through weir    psql "([^"]+)"`).FindStringSubmatch(text.String()); match != nil {
			dsn = match[1]
		}
	}
	go func() { _, _ = io.Copy(io.Discard, stdout) }()

	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	var orders int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM orders").Scan(&orders); err != nil || orders < 25 {
		t.Errorf("%d orders, %v", orders, err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Error(err)
	}
	interrupt()
	if code := <-exit; code != exitOK {
		t.Errorf("exit code %d, stderr %s", code, stderr.String())
	}
}
