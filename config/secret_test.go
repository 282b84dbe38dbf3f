package config_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fleet"
)

// All the ways in which a value that holds a secret may come to be written somewhere.
func TestSecretsAreNeverWritten(t *testing.T) {
	dsn := func(text string) config.DSN {
		d, err := config.NewDSN(text)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	values := map[string]any{
		"secret":              config.NewSecret(secret),
		"pointer":             new(config.NewSecret(secret)),
		"in a struct":         config.User{Password: config.NewSecret(secret)},
		"in a hidden field":   struct{ hidden config.User }{config.User{Password: config.NewSecret(secret)}},
		"in a map":            map[string]config.User{"app": {Password: config.NewSecret(secret)}},
		"in a slice":          []config.Secret{config.NewSecret(secret)},
		"DSN as a URL":        dsn("postgres://app:" + secret + "@db/orders?sslpassword=" + secret),
		"DSN as pairs":        dsn("host=db user=app password='" + secret + `\'` + secret + "' dbname=orders"),
		"DSN without host":    dsn("password=" + secret),
		"DSN, password in ?":  dsn("postgres://db/orders?user=app&password=" + secret),
		"DSN in hidden field": struct{ hidden config.DSN }{dsn("postgres://app:" + secret + "@db/orders")},
		"whole configuration": config.Config{Resources: map[string]config.Resource{"orders": {Upstream: dsn("postgres://app:" + secret + "@db/orders")}}},
		"fleet":               fleet.Config{Redis: "redis://:" + secret + "@redis/0", Name: "prod"},
		"fleet, wrong place":  fleet.Config{Redis: "redis://" + secret + "@redis/0?password=" + secret},
		"fleet, not a URL":    fleet.Config{Redis: "redis://a:" + secret + " @redis"},
		"fleet in a pointer":  &config.Config{Fleet: &fleet.Config{Redis: "redis://u:" + secret + "@redis/0"}},
	}
	writers := map[string]func(any) string{
		"%v":   func(v any) string { return fmt.Sprintf("%v", v) },
		"%+v":  func(v any) string { return fmt.Sprintf("%+v", v) },
		"%#v":  func(v any) string { return fmt.Sprintf("%#v", v) },
		"%s":   func(v any) string { return fmt.Sprintf("%s", v) },
		"%q":   func(v any) string { return fmt.Sprintf("%q", v) },
		"%x":   func(v any) string { return fmt.Sprintf("%x %X", v, v) },
		"%d":   func(v any) string { return fmt.Sprintf("%d", v) },
		"json": func(v any) string { text, _ := json.Marshal(v); return string(text) },
		"xml":  func(v any) string { text, _ := xml.Marshal(v); return string(text) },
		"yaml": func(v any) string { text, _ := yaml.Marshal(v); return string(text) },
		"error": func(v any) string {
			return fmt.Errorf("read %v: %w", v, fmt.Errorf("%v", v)).Error()
		},
		"log as text": func(v any) string {
			var b bytes.Buffer
			slog.New(slog.NewTextHandler(&b, nil)).Info("x", "value", v)
			return b.String()
		},
		"log as JSON": func(v any) string {
			var b bytes.Buffer
			slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "value", v)
			return b.String()
		},
	}
	hexed := fmt.Sprintf("%x", secret)
	for what, value := range values {
		for how, write := range writers {
			got := write(value)
			if strings.Contains(got, secret) || strings.Contains(strings.ToLower(got), hexed) {
				t.Errorf("%s by %s shows the secret: %s", what, how, got)
			}
		}
	}
}

func TestSecretTellsWhetherItIsThere(t *testing.T) {
	var none config.Secret
	given := config.NewSecret(secret)
	if !none.IsZero() || none.String() != "" || none.Reveal() != "" || !none.Equal(config.NewSecret("")) {
		t.Errorf("the zero secret is %q, revealed %q", none, none.Reveal())
	}
	if given.IsZero() || given.String() != "***" || given.Reveal() != secret || given.Equal(none) || !given.Equal(config.NewSecret(secret)) {
		t.Errorf("a secret is %q", given)
	}
}

func TestDSNShowsWhereItLeads(t *testing.T) {
	for text, want := range map[string]string{
		"postgres://app:pw@db.internal:5433/orders?sslmode=require": "postgres://app:***@db.internal:5433/orders",
		"postgresql://app@db/orders":                                "postgres://app@db:5432/orders",
		"postgres://app:pw@a:1,b:2/orders?target_session_attrs=any": "postgres://app:***@a:1,b:2/orders",
		"host=/var/run/postgresql user=app dbname=orders":           "postgres://app@/var/run/postgresql:5432/orders",
	} {
		dsn, err := config.NewDSN(text)
		if err != nil {
			t.Fatal(err)
		}
		if dsn.String() != want || dsn.Reveal() != text {
			t.Errorf("%s is shown as %s, want %s", text, dsn, want)
		}
	}
}
