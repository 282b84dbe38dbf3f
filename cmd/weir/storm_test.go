package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/pgtest"
	"github.com/weirproxy/weir/storm"
)

func TestStormTellsWhatBecameOfIt(t *testing.T) {
	pg := pgtest.Shared(t)
	page := filepath.Join(t.TempDir(), "storm.html")
	data := filepath.Join(t.TempDir(), "storm.json")
	got := weirRun(t, "storm", "--dsn", pg.DSN(), "--load=50/s for 1s", "--deadline=20s", "--connections=kept", "--kept=3",
		"--caller=name=checkout,share=0.4", "--caller=name=reports", "--html", page, "--json", data)
	if got.code != exitOK || got.stderr != "" {
		t.Fatalf("exit code %d, stderr %q", got.code, got.stderr)
	}
	for _, want := range []string{"50/s for 1s; 3 connections kept", "offered", "latency of the good", "checkout", "reports", "fairness", "generator: began within"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("%q is missing in\n%s", want, got.stdout)
		}
	}
	html, err := os.ReadFile(page)
	if err != nil || !bytes.Contains(html, []byte("<svg")) {
		t.Errorf("the page has %d bytes and no picture, %v", len(html), err)
	}
	text, err := os.ReadFile(data)
	if err != nil {
		t.Fatal(err)
	}
	var report storm.Report
	if err := json.Unmarshal(text, &report); err != nil || len(report.Results) != 1 || report.Results[0].Good == 0 {
		t.Errorf("JSON %s, %v", text, err)
	}
}

func TestStormWritesNothingButJSONToStandardOutput(t *testing.T) {
	pg := pgtest.Shared(t)
	got := weirRun(t, "storm", "--compare", "one="+pg.DSN()+",two="+pg.DSN(), "--load=5 at once", "--deadline=20s", "--json=-")
	if got.code != exitOK || got.stderr != "" {
		t.Fatalf("exit code %d, stderr %q", got.code, got.stderr)
	}
	var report storm.Report
	if err := json.Unmarshal([]byte(got.stdout), &report); err != nil {
		t.Fatalf("%v in %s", err, got.stdout)
	}
	if len(report.Results) != 2 || report.Results[0].Name != "one" || report.Results[1].Name != "two" || report.Results[1].Good != 5 {
		t.Errorf("got %s", got.stdout)
	}
}

func TestInterruptedStormStillTells(t *testing.T) {
	pg := pgtest.Shared(t)
	ctx, interrupt := context.WithTimeout(t.Context(), time.Second)
	defer interrupt()
	var stdout, stderr bytes.Buffer
	code := run(ctx, []string{"storm", "--dsn", pg.DSN(), "--load=20/s for 1h"}, &stdout, &stderr)
	if code != exitOK || !strings.Contains(stdout.String(), "interrupted: these are the figures up to then") {
		t.Errorf("exit code %d\n%s%s", code, stdout.String(), stderr.String())
	}
}

func TestStormsThatCannotBe(t *testing.T) {
	plan := filepath.Join(t.TempDir(), "storm.yaml")
	if err := os.WriteFile(plan, []byte("dsn: postgres://app@127.0.0.1:1/app\nload: 5/s for 1s\ndeadline: soon\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const nowhere = "postgres://app@127.0.0.1:1/app"
	tests := map[string]struct {
		args []string
		code int
		want string
	}{
		"no target":              {[]string{"--load=5/s for 1s"}, exitUsage, "weir: --dsn: is missing; expected the database or pooler that is to suffer"},
		"no load":                {[]string{"--dsn=" + nowhere}, exitUsage, "weir: --load: is missing; expected phases"},
		"a load that is none":    {[]string{"--dsn=" + nowhere, "--load=fast"}, exitUsage, `weir: --load: "fast" is not a phase of a load`},
		"too many connections":   {[]string{"--dsn=" + nowhere, "--load=5/s for 1s", "--max-connections=99999"}, exitUsage, "weir: --max-connections: 99999 is out of bounds; expected 1 to 20000"},
		"a caller that is none":  {[]string{"--dsn=" + nowhere, "--load=5/s for 1s", "--caller=checkout"}, exitUsage, `weir: --caller: "checkout" is not a key=value pair`},
		"SQL that is not there":  {[]string{"--dsn=" + nowhere, "--load=5/s for 1s", "--sql=gone.sql"}, exitUsage, "weir: --sql: stat gone.sql: no such file"},
		"nothing to compare":     {[]string{"--compare=weir", "--load=5/s for 1s"}, exitUsage, "weir: --compare: expected URLs with commas between"},
		"a bad DSN to compare":   {[]string{"--compare=a=" + nowhere + ",b=postgres://h:x/", "--load=5/s for 1s"}, exitUsage, "weir: --compare: the DSN of b has a port that is not a number"},
		"a mistake in the plan":  {[]string{"--plan=" + plan}, exitUsage, "weir: " + plan + `:3:11: deadline: "soon" is not a duration`},
		"a plan that is missing": {[]string{"--plan=gone.yaml"}, exitUsage, "weir: --plan: open gone.yaml: no such file"},
		"a file that cannot be":  {[]string{"--dsn=" + nowhere, "--load=5/s for 1s", "--html=" + t.TempDir()}, exitUsage, "weir: --html: open "},
		"nobody there":           {[]string{"--dsn=" + nowhere, "--load=5/s for 1s"}, exitFailure, "weir: caller functions cannot log in at app@127.0.0.1:1/app: dial tcp 127.0.0.1:1: connect: connection refused\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := weirRun(t, append([]string{"storm"}, test.args...)...)
			if got.code != test.code || !strings.HasPrefix(got.stderr, test.want) || got.stdout != "" {
				t.Errorf("exit code %d, stderr %q, stdout %q; want %d, %q", got.code, got.stderr, got.stdout, test.code, test.want)
			}
		})
	}
}

func TestTargetsToCompare(t *testing.T) {
	tests := map[string][]storm.Target{
		"weir=postgres://a@h/d,b=postgresql://c@h,h2/d?x=1": {{Name: "weir", DSN: "postgres://a@h/d"}, {Name: "b", DSN: "postgresql://c@h,h2/d?x=1"}},
		"postgres://a@h/d,postgres://b@h/d":                 {{Name: "target 1", DSN: "postgres://a@h/d"}, {Name: "target 2", DSN: "postgres://b@h/d"}},
		"host=h user=a":                                     nil,
		"a=postgres://h,a=postgres://g":                     nil,
	}
	for text, want := range tests {
		got, err := parseTargets(text)
		if (err == nil) != (want != nil) || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
}
