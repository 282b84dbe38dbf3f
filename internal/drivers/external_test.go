package drivers_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	python  = "/usr/bin/python3" // the system's, which has the system's drivers
	jdbcJar = "/usr/share/java/postgresql.jar"
)

// external runs a program in another language.
func external(name string, args ...string) func(context.Context, server, []string) ([]byte, error) {
	return func(ctx context.Context, srv server, skip []string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, name, append(args[:len(args):len(args)], skip...)...)
		cmd.Env = append(os.Environ(), srv.env()...)
		cmd.WaitDelay = time.Second // a program that go run has started may outlive it and keep the pipes
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			return out, fmt.Errorf("%w\n%s", err, clip(stderr.String()))
		}
		return out, nil
	}
}

// inPython runs a program of python/, without leaving compiled modules beside it.
func inPython(program string) func(context.Context, server, []string) ([]byte, error) {
	return external(python, "-B", "python/"+program)
}

// The functions below say what is missing to run a driver, and who installs it.

func program(name string) func() error {
	return func() error {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%w; `make test` installs it, or run scripts/setup", err)
		}
		return nil
	}
}

func file(path string) func() error {
	return func() error {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%w; `make test` installs it, or run scripts/setup", err)
		}
		return nil
	}
}

func nodeModules(name string) func() error {
	return file(filepath.Join("node", "node_modules", name, "package.json"))
}

func pythonModule(name string) func() error {
	return func() error {
		if out, err := exec.Command(python, "-c", "import "+name).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s; `make test` installs it, or run scripts/setup", python, err, out)
		}
		return nil
	}
}
