package config_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/config"
	"github.com/weirproxy/weir/fleet"
	"github.com/weirproxy/weir/internal/certs"
	"github.com/weirproxy/weir/internal/golden"
	"github.com/weirproxy/weir/limiter"
)

const referenceExample = `listen: 0.0.0.0:6432            # functions connect here: postgres://app:…@weir:6432/orders
admin: 127.0.0.1:8432           # metrics and health
tls: { mode: prefer, cert: server.crt, key: server.key }
auth:
  method: scram-sha-256
users:
  app: { password: "${file:/run/secrets/app}" }
resources:
  orders:                       # the database name that functions ask for
    upstream: postgres://app:${DB_PASSWORD}@db.internal:5432/orders?sslmode=verify-full
    connections: 80
    rate: { per_second: 2000, burst: 500 }
    queue: { wait: 2s, length: auto }
    breaker: { failures: 3, ratio: 0.5, window: 10s, cooldown: 1s, max_cooldown: 30s }
    timeouts: { connect: 5s, idle_in_transaction: 60s }
log: { level: info, format: json }
`

const referenceIntro = `<!-- Generated from the comments of the settings in config/, limiter/, breaker/ and fleet/: go test ./config -update -->

# Configuration

` + "`weir serve --config weir.yaml` runs with a file like this; `weir check --config weir.yaml` only looks at it." + `

` + "```yaml\n" + referenceExample + "```" + `

Without a file, ` + "`weir serve --upstream postgres://…`" + ` serves that one database with the defaults below, to clients of the
same machine, without asking them for a password.

## How it is read

- Everything is checked before anything is used. All mistakes are reported at once, each with its line and column,
  what was expected, and an example; one mistake is enough to refuse the file.

  ` + "```" + `
  weir.yaml:9:18: resources.orders.connections: "many" is not a whole number; expected a whole number, 1 or more; e.g. connections: 80
  ` + "```" + `
- What is legal but probably not meant is a warning. Settings whose behaviour comes with a later version are checked,
  and say in a warning that they have no effect yet.
- ` + "`${NAME}`" + ` in a value is replaced by an environment variable, ` + "`${file:/run/secrets/name}`" + ` by the content of a file
  without the line ends behind it; ` + "`$$`" + ` is one ` + "`$`" + `. An unset variable or an unreadable file is a mistake. Inside
  ` + "`{ }` and `[ ]`" + ` such a value needs quotes. In an upstream or a Redis URL it is inserted as it is: where it stands for
  one part, such as the password, weir escapes it, and it must not be percent-encoded before.
- Secrets (passwords, tokens, the passwords in upstreams and Redis URLs) appear in no message, log or dump.
- Durations have a unit: ` + "`500ms`, `2s`, `10m`, `1h`" + `. Numbers and durations are above 0, except where the meaning of 0
  is given.
- The file is UTF-8, one YAML document of up to 1 MiB, without anchors, merge keys and tags. Keys are written once.
- Relative paths start at the directory of the file. Paths inside an upstream, such as sslrootcert, start at weir's
  working directory, as libpq has it.

`

const referenceOutro = `
## Which secret goes with which method

` + "`users.<name>.password`" + ` is one of

| ` + "`auth.method`" + ` | SCRAM verifier | md5 hash | password itself |
|---|---|---|---|
| trust | not used | not used | not used |
| password | yes | yes | yes |
| md5 | no | yes | yes |
| scram-sha-256 | yes | no | yes |

Verifiers and hashes are what ` + "`SELECT rolpassword FROM pg_authid`" + ` shows. A password itself belongs into ` + "`${NAME}`" + ` or
` + "`${file:…}`" + `; written into the file it is a warning.

## What contradicts

Refused: a TLS mode without its files; an admin address that other machines can reach, without a token; the same address
twice; equal tokens; a secret that the method cannot use; users who are named elsewhere but not in ` + "`users`" + `; resources
called ` + "`weir` or `pgbouncer`" + `, which are the console; ` + "`adaptive.min`" + ` or a caller's ` + "`connections`" + ` above the resource's;
` + "`cooldown` above `max_cooldown`" + `; an upstream that is weir itself; a caller's rule that an earlier one hides.

Warned of: ` + "`trust`" + ` on an address that other machines can reach; ` + "`password`" + ` where TLS is not required; ` + "`client_ca`" + ` with
a mode that does not ask for certificates; an upstream where somebody else could answer (docs/explanation/upstream.md has more of
upstreams); files with secrets that every user of the machine can read.
`

// The page is made of the comments and tags of the settings, and those are held against what the code really does.
func TestReferencePageIsUpToDate(t *testing.T) {
	page := &page{t: t, comments: map[string]map[string]string{}}
	page.WriteString(referenceIntro)
	cfg := config.Default()
	cfg.Fleet = new(fleet.Config{}.WithDefaults())
	orders := config.DefaultResource()
	orders.Rate = new(limiter.Rate{}.WithDefaults())
	orders.Adaptive = new(limiter.Adaptive{Enabled: true}.WithDefaults())
	orders.Callers = []limiter.CallerRule{limiter.CallerRule{}.WithDefaults()}
	cfg.Resources = map[string]config.Resource{"<name>": orders}
	cfg.Users = map[string]config.User{"<name>": {}}
	page.section("", reflect.ValueOf(*cfg))
	page.WriteString(referenceOutro)
	golden.Compare(t, "../docs/reference/configuration.md", page.String())
}

func TestReferenceExampleIsAccepted(t *testing.T) {
	_, warnings, err := config.Parse([]byte(strings.NewReplacer("tls:", "#", "verify-full", "disable").Replace(referenceExample)),
		config.Source{File: "weir.yaml", Env: env, ReadFile: func(string) ([]byte, error) { return []byte("x"), nil }})
	if err != nil || len(warnings) > 0 {
		t.Errorf("%v\n%v", err, warnings)
	}
}

// Every eg is what Load accepts: those of single values, and those of the sections around them.
func TestExamplesAreAccepted(t *testing.T) {
	ca, err := certs.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue(certs.Request{CommonName: "weir"})
	if err != nil {
		t.Fatal(err)
	}
	src := config.Source{
		File: "eg",
		Env: func(name string) (string, bool) {
			if name == "ORDERS_DSN" {
				return "postgres://app@db/orders", true
			}
			return name, true
		},
		ReadFile: func(path string) ([]byte, error) {
			if path == "server.key" {
				return key, nil
			}
			return cert, nil
		},
	}
	deepest := ""
	for depth := range 6 {
		file := example(reflect.TypeFor[config.Config](), depth)
		// The examples are of different users, which only trust does not mind.
		file = strings.ReplaceAll(file, "method: scram-sha-256", "method: trust")
		if _, _, err := config.Parse([]byte(file), src); err != nil {
			t.Errorf("%v\n%s", err, file)
		}
		deepest = file
	}
	if !strings.Contains(deepest, "application_name") || strings.Contains(deepest, ": ,") {
		t.Errorf("the examples are not all there: %s", deepest)
	}
}

// example writes a value of this type, down to the given depth from its keys and below from their examples.
func example(t reflect.Type, depth int) string {
	switch t.Kind() {
	case reflect.Pointer:
		return example(t.Elem(), depth)
	case reflect.Map:
		return "{ orders: " + example(t.Elem(), depth) + " }"
	case reflect.Slice:
		return "[ " + example(t.Elem(), depth) + " ]"
	}
	var parts []string
	for i := range t.NumField() {
		f := t.Field(i)
		if key := f.Tag.Get("yaml"); key != "" {
			value := f.Tag.Get("eg")
			if depth > 0 && hasKeys(f.Type) {
				value = example(f.Type, depth-1)
			}
			parts = append(parts, key+": "+value)
		}
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

func hasKeys(t reflect.Type) bool {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	return t.Kind() == reflect.Struct && t != reflect.TypeFor[config.Secret]() && t != reflect.TypeFor[config.DSN]()
}

type page struct {
	strings.Builder
	t        *testing.T
	comments map[string]map[string]string // by package directory, then "Type" or "Type.Field"
}

// section writes the table of one section, then those of the sections inside it.
func (p *page) section(path string, v reflect.Value) {
	p.t.Helper()
	typ := v.Type()
	if path == "" {
		p.WriteString("## The top level\n\n")
	} else {
		fmt.Fprintf(p, "\n## `%s`\n\n%s\n\n", path, p.about(typ))
	}
	p.WriteString("| key | value | default | e.g. | meaning |\n|---|---|---|---|---|\n")
	for i := range typ.NumField() {
		f := typ.Field(i)
		if key := f.Tag.Get("yaml"); key != "" {
			p.row(key, f, typ, v.Field(i))
		}
	}
	for i := range typ.NumField() {
		f := typ.Field(i)
		key := f.Tag.Get("yaml")
		if key == "" {
			continue
		}
		if path != "" {
			key = path + "." + key
		}
		p.inner(key, v.Field(i))
	}
}

func (p *page) inner(path string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		p.inner(path, v.Elem())
	case reflect.Map:
		p.inner(path+".<name>", v.MapIndex(reflect.ValueOf("<name>")))
	case reflect.Slice:
		if v.Len() > 0 {
			p.inner(path+"[]", v.Index(0))
		}
	case reflect.Struct:
		if hasKeys(v.Type()) {
			p.section(path, v)
		}
	}
}

var trailing = regexp.MustCompile(`^(.*\S)\s+\(([^()]*)\)$`)

func (p *page) row(key string, f reflect.StructField, owner reflect.Type, v reflect.Value) {
	meaning, byDefault := p.comment(owner, f.Name), ""
	if m := trailing.FindStringSubmatch(meaning); m != nil {
		meaning, byDefault = m[1], m[2]
	}
	weir := strings.Split(f.Tag.Get("weir"), ",")
	zero := ""
	for _, option := range weir {
		switch word, isZero := strings.CutPrefix(option, "zero="); {
		case isZero:
			zero = word
			meaning += "; `" + zeroOf(f.Type) + "`: " + word
		case option == "later":
			meaning += ". **Accepted; has no effect in this version**"
		case option == "required":
			byDefault = "required"
		}
	}
	if real := shownDefault(v, zero); real != "" && byDefault != real && byDefault != "required" {
		p.t.Errorf("%s.%s: its comment says the default is (%s), the code says (%s)", owner, f.Name, byDefault, real)
	}
	if byDefault != "" && byDefault != "required" && v.Kind() != reflect.Pointer && v.Kind() != reflect.Map && v.Kind() != reflect.Slice {
		if real := shownDefault(v, zero); real != "" {
			byDefault = "`" + byDefault + "`"
		}
	}
	escape := strings.NewReplacer("|", `\|`, "\n", " ")
	fmt.Fprintf(p, "| `%s` | %s | %s | `%s` | %s |\n", key, kind(f.Type), escape.Replace(byDefault), escape.Replace(f.Tag.Get("eg")), escape.Replace(meaning))
}

// zeroOf is how a zero is written.
func zeroOf(t reflect.Type) string {
	if t == reflect.TypeFor[time.Duration]() {
		return "0s"
	}
	return "0"
}

// shownDefault is what a default looks like in the file, or "" if there is none to show.
func shownDefault(v reflect.Value, zero string) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		if x == 0 {
			return zero
		}
		text := x.String()
		if s, ok := strings.CutSuffix(text, "m0s"); ok {
			text = s + "m"
		}
		if s, ok := strings.CutSuffix(text, "h0m"); ok {
			text = s + "h"
		}
		return text
	case limiter.Length:
		return x.String()
	case limiter.Patience:
		return x.String()
	case int:
		if x < 0 { // stands for what depends on other settings
			return ""
		}
	}
	if v.IsZero() || v.Kind() == reflect.Struct || v.Kind() == reflect.Pointer || v.Kind() == reflect.Map || v.Kind() == reflect.Slice {
		return ""
	}
	return fmt.Sprint(v.Interface())
}

func kind(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[config.Secret]():
		return "secret text"
	case reflect.TypeFor[config.DSN]():
		return "DSN"
	case reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[limiter.Length]():
		return "auto or whole number"
	case reflect.TypeFor[limiter.Patience]():
		return "auto or duration"
	case reflect.TypeFor[config.Admin]():
		return "address or section"
	}
	switch t.Kind() {
	case reflect.Int:
		return "whole number"
	case reflect.Float64:
		return "number"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "list"
	case reflect.Map:
		return "section of names"
	case reflect.Struct, reflect.Pointer:
		return "section"
	}
	return "text"
}

// about is the comment of a section's type, less what only concerns those who read the code.
func (p *page) about(t reflect.Type) string {
	text, _, _ := strings.Cut(p.comment(t, ""), "\n\nThe URL may")
	text = strings.ReplaceAll(text, "A zero field takes the default written beside it.", "")
	if rest, ok := strings.CutPrefix(text, "Config "); ok {
		text = "This section " + rest
	}
	return strings.TrimSpace(text)
}

// comment is the doc comment of a type, or the comment of one of its fields.
func (p *page) comment(t reflect.Type, name string) string {
	p.t.Helper()
	dir := filepath.Join("..", strings.TrimPrefix(t.PkgPath(), "github.com/weirproxy/weir/"))
	if p.comments[dir] == nil {
		p.comments[dir] = comments(p.t, dir)
	}
	text := p.comments[dir][strings.TrimSuffix(t.Name()+"."+name, ".")]
	if text == "" {
		p.t.Errorf("%s %s has no comment", t, name)
	}
	return text
}

func comments(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			decl, ok := n.(*ast.GenDecl)
			if !ok {
				return true
			}
			for _, spec := range decl.Specs {
				typ, ok := spec.(*ast.TypeSpec)
				if !ok {
					continue
				}
				found[typ.Name.Name] = strings.TrimSpace(decl.Doc.Text())
				s, ok := typ.Type.(*ast.StructType)
				if !ok {
					continue
				}
				for _, f := range s.Fields.List {
					for _, n := range f.Names {
						found[typ.Name.Name+"."+n.Name] = strings.TrimSpace(strings.ReplaceAll(f.Doc.Text()+f.Comment.Text(), "\n", " "))
					}
				}
			}
			return false
		})
	}
	return found
}
