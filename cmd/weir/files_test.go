package main

import (
	"bytes"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	"github.com/weirproxy/weir/config"
)

func TestWarnOfFiles(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := limit
	few.Cur = 1000
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}()
	tests := map[string]struct {
		clients, connections int
		warned               string
	}{
		"there is room for all": {836, 100, ""},
		"for one less":          {837, 100, "room=836"},
		"hardly any beside so many server connections": {837, 2000, "room=250"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			cfg := &config.Config{Resources: map[string]config.Resource{"orders": {Connections: test.connections}}}
			cfg.Limits.Clients = test.clients
			warnOfFiles(cfg, slog.New(slog.NewTextHandler(&log, nil)))
			if got := log.String(); (test.warned == "") != (got == "") || !strings.Contains(got, test.warned) {
				t.Errorf("logged %q, want %q", got, test.warned)
			}
		})
	}
}
