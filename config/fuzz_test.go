package config_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirproxy/weir/config"
)

// FuzzParse: whatever the file, there is a configuration or a list of problems, never a panic, and no secret that came
// from outside the file is in any text about it.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/load/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, seed := range []string{
		"\xff\xfea\x00", "\xef\xbb\xbfa: b", "? a\n: b\n", "a: |\n  x\n", "a: >-\n x\n\n y\n", "- - - -\n", "{[}]", "a: 'b\n\n c'", `a: "\x41\u0042\U00000043"`,
		"auth: {method: trust}\nresources: {o: {upstream: \"postgres://a:${X}@h/d\", connections: ${X}, rate: {per_second: .inf}}}",
		"users: {${X}: {password: ${file:x}}}\n", "admin: {listen: ${X}, read_token: ${X}}\n", "resources:\n  o:\n    upstream: |\n      host=h password='${X}'\n",
	} {
		f.Add([]byte(seed))
	}
	const hidden = "Zx9%'\\ @q/Zx9Zx9"
	src := config.Source{
		File: "weir.yaml",
		Env:  func(string) (string, bool) { return hidden, true },
		ReadFile: func(path string) ([]byte, error) {
			if strings.Contains(path, "none") {
				return nil, fs.ErrNotExist
			}
			return []byte(hidden + "\n"), nil
		},
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, word := range []string{"file", "ssl", "service"} { // libpq's keywords for files that pgconn would read
			if strings.Contains(strings.ReplaceAll(strings.ToLower(string(data)), "${file:", ""), word) {
				return
			}
		}
		cfg, warnings, err := config.Parse(data, src)
		var problems config.Problems
		switch {
		case (cfg == nil) == (err == nil):
			t.Fatalf("configuration %v with error %v", cfg != nil, err)
		case err != nil && (!errors.As(err, &problems) || len(problems) == 0):
			t.Fatalf("not a list of problems: %v", err)
		}
		for _, p := range append(problems, warnings...) {
			if strings.Contains(p.String(), "Zx9") {
				t.Errorf("shows what is hidden: %s", p)
			}
			if p.Message == "" || p.Line < 0 || p.Line > 0 && p.Column < 1 || p.Line > strings.Count(string(data), "\n")+strings.Count(string(data), "\r")+1 {
				t.Errorf("stands nowhere: %+v", p)
			}
		}
	})
}
