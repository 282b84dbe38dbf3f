package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/weirproxy/weir/internal/yamlfile"
	"github.com/weirproxy/weir/upstream"
)

// Source is where a configuration comes from and what its ${…} stand for.
type Source struct {
	File     string                            // as problems name it; relative paths inside are relative to its directory
	Env      func(name string) (string, bool)  // ${NAME}; os.LookupEnv if nil
	ReadFile func(path string) ([]byte, error) // ${file:path} and certificates; regular files of up to 1 MiB if nil

	// Mode is the permissions of a file, if that can be known: who else may read a secret. The file system's if nil and
	// ReadFile is nil, too.
	Mode func(path string) (mode fs.FileMode, known bool)
}

// Load reads, expands and checks the file at path. env is what ${NAME} stands for, os.LookupEnv if nil.
//
// The error is a Problems with everything that is wrong; then there is no Config. Warnings come in either case, in the
// form of Problems.
func Load(path string, env func(name string) (string, bool)) (cfg *Config, warnings Problems, err error) {
	data, err := readConfig(path)
	if err != nil {
		return nil, nil, Problems{{File: path, Message: why(err)}}
	}
	return Parse(data, Source{File: path, Env: env})
}

// Parse is Load for a file whose content is at hand.
func Parse(data []byte, src Source) (cfg *Config, warnings Problems, err error) {
	r := newReader(src)
	cfg = Default()
	if root := r.parse(data); root != nil {
		r.read(root, cfg)
		if r.ok("") {
			r.check(cfg)
		}
	}
	if len(r.problems) > 0 {
		return nil, r.warnings.sorted(), r.problems.sorted()
	}
	return cfg, r.warnings.sorted(), nil
}

// CommandLine is the source of a DSN that others on the machine may have read.
const CommandLine = "--upstream"

// FromUpstream is the configuration without a file: one resource with the defaults, named after the DSN's database,
// for clients of this machine, who are believed. source is where the DSN is from, for problems to name: CommandLine, the name
// of a file, or anything else.
func FromUpstream(source, dsn string) (cfg *Config, warnings Problems, err error) {
	parsed, err := upstream.Parse(dsn)
	if err != nil {
		return nil, nil, Problems{{File: source, Message: err.Error()}}
	}
	name := parsed.Database()
	if name == "" {
		name = parsed.User() // as PostgreSQL does
	}
	if what, expected := badResourceName(name); what != "" {
		return nil, nil, Problems{{File: source, Message: fmt.Sprintf("its database name %s; expected %s", what, expected)}}
	}
	for _, w := range parsed.Warnings() {
		warnings = append(warnings, Problem{File: source, Message: w})
	}
	if parsed.Written("password") {
		if source == CommandLine {
			warnings = append(warnings, Problem{File: source, Message: "has a password, which other users of this machine could read until weir had started; expected the DSN in --upstream-file, or in the environment as WEIR_UPSTREAM"})
		} else if problem := (Source{Mode: modeOf}).exposed(source); problem != "" {
			warnings = append(warnings, Problem{File: source, Message: "has a password and " + problem})
		}
	}
	cfg = Default()
	cfg.Auth.Method = AuthTrust
	r := DefaultResource()
	r.Upstream = DSN{NewSecret(dsn), showDSN(parsed)}
	cfg.Resources = map[string]Resource{name: r}
	return cfg, warnings, nil
}

// readConfig also reads pipes, as `weir check --config <(render)` gives them.
func readConfig(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, yamlfile.MaxSize+1)) // one more, so that parse sees that it is too large
}

// readRegular reads a file that a configuration refers to, and nothing that could block or never end.
func readRegular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("is not a regular file")
	case info.Size() > yamlfile.MaxSize:
		return nil, fmt.Errorf("is larger than 1 MiB")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return data, nil
}

// located makes a path of the file relative to the file's own directory.
func (s Source) located(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(s.File), path)
}

// why is an error of the file system without the path, which the problem names already.
func why(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Op + ": " + path.Err.Error()
	}
	return err.Error()
}
