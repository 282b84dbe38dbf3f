package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestPasswordsInArguments(t *testing.T) {
	for arg, want := range map[string]string{
		"postgres://app:hush@db/orders":                      "postgres://app:####@db/orders",
		"--upstream=postgres://app:hush@db/orders?sslmode=x": "--upstream=postgres://app:####@db/orders?sslmode=x",
		"postgres://app:hu/s@h@db/orders":                    "postgres://app:######@db/orders",
		"postgres://app@db:5432/orders":                      "postgres://app@db:5432/orders",
		"postgres://db:5432/orders?user=a&password=hush&b=c": "postgres://db:5432/orders?user=a&password=####&b=c",
		"host=db password=hush user=app":                     "host=db password=#### user=app",
		"host=db password = 'hu sh\\' ' user=app":            "host=db password = ########## user=app",
		"--dsn=password=hush host=db":                        "--dsn=password=#### host=db",
		"host=db sslpassword=hush":                           "host=db sslpassword=####",
		"a=postgres://x:hush@h/d,b=postgres://y:hush@h/d":    "a=postgres://x:############################@h/d",
		"name=checkout,user=fn,password=hush":                "name=checkout,user=fn,password=####",
		"redis://:hush@redis/0":                              "redis://:####@redis/0",
		"serve":                                              "serve",
		"127.0.0.1:6432":                                     "127.0.0.1:6432",
	} {
		got := []byte(arg)
		for _, p := range passwordsIn(arg) {
			for i := p.from; i < p.to; i++ {
				got[i] = '#'
			}
		}
		if string(got) != want {
			t.Errorf("%s becomes %s, want %s", arg, got, want)
		}
	}
}

func TestComplaintsAboutArgumentsHaveNoPasswords(t *testing.T) {
	for _, args := range [][]string{
		{"serve", "postgres://app:hush-hush@db/orders"},
		{"serve", "--upstreams=postgres://app:hush-hush@db/orders"},
		{"serve", "--upstream", "postgres://app:hush-hush@db:x/orders"},
		{"serve", "--config=a", "--upstream=postgres://app:hush-hush@db/orders"},
		{"storm", "--dsn=postgres://app:hush-hush@db:x/orders", "--load=5/s for 1s"},
		{"postgres://app:hush-hush@db/orders"},
	} {
		if got := weirRun(t, args...); got.code != exitUsage || strings.Contains(got.stderr+got.stdout, "hush-hush") {
			t.Errorf("%v: exit code %d, says %s", args[0], got.code, got.stderr)
		}
	}
}

// ps shows what /proc has.
func TestNobodySeesThePasswordOnTheCommandLine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc")
	}
	const dsn = "postgres://app:hush-hush@127.0.0.1:1/orders?sslmode=disable"
	file := filepath.Join(t.TempDir(), "dsn")
	if err := os.WriteFile(file, []byte(dsn+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		args    []string
		env     string
		warning string
	}{
		"an argument":             {[]string{"--upstream", dsn}, "", "expected the DSN in --upstream-file"},
		"an argument with =":      {[]string{"--upstream=" + dsn}, "", "expected the DSN in --upstream-file"},
		"the environment":         {nil, "WEIR_UPSTREAM=" + dsn, ""},
		"a file":                  {[]string{"--upstream-file", file}, "", "can be read by every user"},
		"a file, the environment": {nil, "WEIR_UPSTREAM_FILE=" + file, "can be read by every user"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], append([]string{"serve", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0"}, test.args...)...)
			cmd.Env = append(os.Environ(), asWeir+"=1")
			if test.env != "" {
				cmd.Env = append(cmd.Env, test.env)
			}
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = cmd.Process.Signal(os.Interrupt)
				_ = cmd.Wait()
			}()
			var said []string
			for lines := bufio.NewScanner(stderr); lines.Scan(); {
				said = append(said, lines.Text())
				if strings.Contains(lines.Text(), "weir is ready") {
					break
				}
			}
			log := strings.Join(said, "\n")
			if !strings.Contains(log, "weir is ready") || !strings.Contains(log, "resources=[orders]") {
				t.Fatalf("weir never became ready:\n%s", log)
			}
			if !strings.Contains(log, test.warning) || test.warning == "" && strings.Contains(log, "level=WARN") || strings.Contains(log, "hush-hush") {
				t.Errorf("want the warning %q and no secret:\n%s", test.warning, log)
			}
			shown, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(shown, []byte("hush-hush")) {
				t.Errorf("everybody can read %q", shown)
			}
		})
	}
}
