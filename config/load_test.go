package config_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/internal/golden"
)

// TestMain forgets libpq's variables, which pgconn fills gaps of a DSN with.
func TestMain(m *testing.M) {
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "PG") {
			_ = os.Unsetenv(name)
		}
	}
	_ = os.Setenv("PGPASSFILE", os.DevNull)
	os.Exit(m.Run())
}

// secret is the value of every secret in the test files; nothing that Load says may contain it.
const secret = "hunter2hunter2"

func env(name string) (string, bool) {
	value, ok := map[string]string{
		"DB_PASSWORD":         secret,
		"APP_PASSWORD":        secret,
		"REDIS_PASSWORD":      secret,
		"TOKEN":               secret,
		"EMPTY":               "",
		"INVOICE_CONNECTIONS": "12",
	}[name]
	return value, ok
}

// Each file of testdata/load has beside it what Load says about it: problems, or else the configuration, and warnings.
func TestLoadSaysWhatIsWrong(t *testing.T) {
	testdata, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(golden.Private(t, "testdata"))
	files, err := filepath.Glob("testdata/load/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			cfg, warnings, err := config.Load(file, env)
			if (cfg == nil) == (err == nil) {
				t.Fatalf("configuration %v with error %v: want the one or the other", cfg != nil, err)
			}
			got := describe(t, cfg, warnings, err)
			if strings.Contains(got, secret) {
				t.Errorf("a secret is shown:\n%s", got)
			}
			golden.Compare(t, filepath.Join(filepath.Dir(testdata), strings.TrimSuffix(file, ".yaml")+".golden"), got)
		})
	}
}

func describe(t *testing.T, cfg *config.Config, warnings config.Problems, err error) string {
	t.Helper()
	var b strings.Builder
	if err != nil {
		var problems config.Problems
		if !errors.As(err, &problems) || len(problems) == 0 {
			t.Fatalf("the error is not a list of problems: %v", err)
		}
		b.WriteString("problems:\n" + err.Error() + "\n")
	}
	if len(warnings) > 0 {
		b.WriteString("warnings:\n" + warnings.Error() + "\n")
	}
	if cfg != nil {
		dump, err := json.MarshalIndent(cfg, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString("configuration:\n" + string(dump) + "\n")
	}
	return b.String()
}
