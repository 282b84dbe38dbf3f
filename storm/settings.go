package storm

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A setting is one key of a plan or of a caller as text: in a plan file, in a flag, in --caller.
type setting[T any] struct {
	key   string
	apply func(into *T, text string) error // the error says what is wrong and what was expected
	eg    string
}

// functionSettings are the keys that a plan and its callers have in common.
func functionSettings[T any](of func(*T) *Function) []setting[T] {
	return []setting[T]{
		{"sql", func(t *T, text string) error { return setSQL(of(t), text) }, `SELECT count(*) FROM orders WHERE customer = random(1,1000)`},
		{"sql_file", func(t *T, text string) error { return readSQL(of(t), text) }, "checkout.sql"},
		{"work", func(t *T, text string) error { return setDuration(&of(t).Work, text) }, "4ms"},
		{"transactions", func(t *T, text string) error { return setInt(&of(t).Transactions, text) }, "5"},
		{"pause", func(t *T, text string) error { return setDuration(&of(t).Pause, text) }, "20ms"},
		{"deadline", func(t *T, text string) error { return setDuration(&of(t).Deadline, text) }, "1s"},
	}
}

var planSettings = append([]setting[Plan]{
	{"dsn", func(p *Plan, text string) error { p.DSN = text; return nil }, "postgres://app:secret@weir:6432/orders"},
	{"name", func(p *Plan, text string) error { p.Name = text; return nil }, "weir"},
	{"load", func(p *Plan, text string) (err error) { p.Load, err = ParseLoad(text); return err }, "200/s for 10s, 3000/s for 5s"},
	{"connections", func(p *Plan, text string) error { return setConnections(&p.Connections, text) }, "kept"},
	{"kept", func(p *Plan, text string) error { return setInt(&p.Kept, text) }, "300"},
	{"max_connections", func(p *Plan, text string) error { return setInt(&p.MaxConnections, text) }, "1000"},
	{"say_deadline", func(p *Plan, text string) error { return setBool(&p.SayDeadline, text) }, "true"},
	{"retries", func(p *Plan, text string) error { return setInt(&p.Retries, text) }, "2"},
	{"heed_hint", func(p *Plan, text string) error { return setBool(&p.HeedHint, text) }, "true"},
	{"backoff", func(p *Plan, text string) error { return setDuration(&p.Backoff, text) }, "50ms"},
	{"warmup", func(p *Plan, text string) error { return setDuration(&p.Warmup, text) }, "5s"},
	{"resolution", func(p *Plan, text string) error { return setDuration(&p.Resolution, text) }, "100ms"},
	{"seed", func(p *Plan, text string) error { return setSeed(&p.Seed, text) }, "7"},
	{"rows_per_millisecond", func(p *Plan, text string) error { return setFloat(&p.RowsPerMillisecond, text) }, "15000"},
}, functionSettings(func(p *Plan) *Function { return &p.Function })...)

var callerSettings = append([]setting[Caller]{
	{"name", func(c *Caller, text string) error { c.Name = text; return nil }, "checkout"},
	{"share", func(c *Caller, text string) error { return setFloat(&c.Share, text) }, "0.2"},
	{"load", func(c *Caller, text string) (err error) { c.Load, err = ParseLoad(text); return err }, "50/s for 20s"},
	{"weight", func(c *Caller, text string) error { return setFloat(&c.Weight, text) }, "4"},
	{"connections", func(c *Caller, text string) error { return setInt(&c.Connections, text) }, "50"},
	{"user", func(c *Caller, text string) error { c.User = text; return nil }, "checkout_fn"},
	{"password", func(c *Caller, text string) error { c.Password = text; return nil }, "${CHECKOUT_PASSWORD}"},
	{"database", func(c *Caller, text string) error { c.Database = text; return nil }, "orders"},
	{"application_name", func(c *Caller, text string) error { c.ApplicationName = text; return nil }, "checkout"},
	{"options", func(c *Caller, text string) error { c.Options = text; return nil }, "-c work_mem=1MB"},
	{"priority", func(c *Caller, text string) error { c.Priority = text; return nil }, "critical"},
}, functionSettings(func(c *Caller) *Function { return &c.Function })...)

// Set gives a setting its value as text; key is as in a plan file. The error is a Mistake.
func (p *Plan) Set(key, text string) error { return set(planSettings, p, key, text) }

// Set gives a setting of the caller its value as text.
func (c *Caller) Set(key, text string) error { return set(callerSettings, c, key, text) }

func set[T any](settings []setting[T], into *T, key, text string) error {
	i := slices.IndexFunc(settings, func(s setting[T]) bool { return s.key == key })
	if i < 0 {
		return mistake(key, "is not known; expected one of %s", strings.Join(keys(settings), ", "))
	}
	if strings.ContainsRune(text, 0) {
		return mistake(key, "holds a zero byte")
	}
	if err := settings[i].apply(into, text); err != nil {
		if eg := settings[i].eg; eg != "" && !strings.Contains(err.Error(), "expected") {
			err = fmt.Errorf("%w; e.g. %s", err, eg)
		}
		return mistake(key, "%v", err)
	}
	return nil
}

func keys[T any](settings []setting[T]) []string {
	var all []string
	for _, s := range settings {
		all = append(all, s.key)
	}
	slices.Sort(all)
	return all
}

// ParseCaller reads key=value pairs with commas between them. A value with a comma in it is written in double quotes.
func ParseCaller(text string) (Caller, error) {
	var c Caller
	const expected = `key=value pairs with commas between, e.g. name=checkout,share=0.2,application_name=checkout,priority=critical,sql="SELECT random(1,9)"`
	seen := map[string]bool{}
	for rest := text; rest != ""; {
		key, after, ok := strings.Cut(rest, "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" || strings.ContainsAny(key, `," `) {
			return c, mistake("caller", "%q is not a key=value pair; expected %s", rest, expected)
		}
		value, more, err := cutValue(after)
		if err != nil {
			return c, mistake("caller", "%s %v; expected %s", key, err, expected)
		}
		if seen[key] {
			return c, mistake("caller", "%s is given twice", key)
		}
		seen[key] = true
		if key == "sql" && strings.HasSuffix(value, ".sql") {
			key = "sql_file"
		}
		if err := c.Set(key, value); err != nil {
			return c, mistake("caller", "%v", err)
		}
		rest = more
	}
	if c.Name == "" {
		return c, mistake("caller", "has no name; expected %s", expected)
	}
	return c, nil
}

// cutValue takes a value up to the next comma, or one in double quotes, in which "" is one quote.
func cutValue(text string) (value, rest string, err error) {
	quoted, ok := strings.CutPrefix(text, `"`)
	if !ok {
		value, rest, _ = strings.Cut(text, ",")
		return value, rest, nil
	}
	for {
		part, after, ok := strings.Cut(quoted, `"`)
		value += part
		if !ok {
			return "", "", errors.New("has no quote at its end")
		}
		if quoted, ok = strings.CutPrefix(after, `"`); ok {
			value += `"`
			continue
		}
		if rest, ok = strings.CutPrefix(after, ","); !ok && after != "" {
			return "", "", fmt.Errorf("is followed by %q", after)
		}
		return value, rest, nil
	}
}

func setSQL(f *Function, text string) error {
	if f.SQL != "" {
		return errors.New("is SQL beside other SQL; expected sql or sql_file")
	}
	if len(text) > MaxSQL {
		return fmt.Errorf("has %d bytes; expected at most %d", len(text), MaxSQL)
	}
	if _, err := newScript(text); err != nil {
		return err
	}
	f.SQL = text
	return nil
}

func readSQL(f *Function, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > MaxSQL {
		return fmt.Errorf("%s is not a file of at most %d bytes", path, MaxSQL)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := setSQL(f, string(text)); err != nil {
		return fmt.Errorf("%s %w", path, err)
	}
	return nil
}

func setDuration(into *time.Duration, text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return fmt.Errorf("%q is not a duration", text)
	}
	*into = d
	return nil
}

func setInt(into *int, text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return fmt.Errorf("%q is not a whole number", text)
	}
	*into = n
	return nil
}

func setFloat(into *float64, text string) error {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f >= 0 && f < 1e15) {
		return fmt.Errorf("%q is not a number", text)
	}
	*into = f
	return nil
}

func setSeed(into *uint64, text string) error {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		return fmt.Errorf("%q is not a whole number above 0", text)
	}
	*into = n
	return nil
}

func setBool(into *bool, text string) error {
	b, err := strconv.ParseBool(text)
	if err != nil {
		return fmt.Errorf("%q is not true or false", text)
	}
	*into = b
	return nil
}

func setConnections(into *Connections, text string) error {
	if text != string(Fresh) && text != string(Kept) {
		return fmt.Errorf("%q is not a way to come by a connection; expected fresh or kept", text)
	}
	*into = Connections(text)
	return nil
}
