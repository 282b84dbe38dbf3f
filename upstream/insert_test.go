package upstream_test

import (
	"strings"
	"testing"

	"github.com/weirproxy/weir/upstream"
)

// expand inserts values as a configuration does: ${V} stands for the next of them.
func expand(text string, values ...string) string {
	var b strings.Builder
	for _, value := range values {
		before, after, _ := strings.Cut(text, "${V}")
		b.WriteString(before)
		inserted, _ := upstream.Insert(b.String(), value, after)
		b.WriteString(inserted)
		text = after
	}
	return b.String() + text
}

// What is read is what was inserted, whatever characters it has.
func TestInsertedValuesAreReadAsTheyAre(t *testing.T) {
	none(t)
	awkward := []string{
		"plain", "p@ss", "a/b", "a:b", "a?b", "a#b", "a&b=c", "100%", "50%25off", "p%40ss", "with blank", "qu'ote", `back\slash`, "[x]", "été",
		"?sslmode=disable", "@evil.example/", "$5", "a,b", "a+b", `"`, "'", `\`,
	}
	forms := map[string]struct {
		text string
		read func(u *upstream.Upstream) string
	}{
		"password": {"postgres://app:${V}@db/orders?sslmode=disable", (*upstream.Upstream).Password},
		"part of a password": {"postgres://app:x${V}y@db/orders", func(u *upstream.Upstream) string {
			return strings.TrimSuffix(strings.TrimPrefix(u.Password(), "x"), "y")
		}},
		"password of pairs":     {"host=db user=app password=${V} dbname=orders", (*upstream.Upstream).Password},
		"password in quotes":    {"host=db user=app password='${V}' dbname=orders", (*upstream.Upstream).Password},
		"last password of all":  {"host=db user=app dbname=orders password = ${V}", (*upstream.Upstream).Password},
		"password as parameter": {"postgres://db/orders?user=app&password=${V}&sslmode=disable", (*upstream.Upstream).Password},
		"user":                  {"postgres://${V}:secret@db/orders", (*upstream.Upstream).User},
		"user of pairs":         {"host=db user=${V} dbname=orders", (*upstream.Upstream).User},
		"database":              {"postgres://app@db/${V}?sslmode=disable", (*upstream.Upstream).Database},
		"database of pairs":     {"host=db dbname=${V} user=app", (*upstream.Upstream).Database},
		"parameter":             {"postgres://app@db/orders?application_name=${V}", func(u *upstream.Upstream) string { return u.Config().RuntimeParams["application_name"] }},
	}
	for form, test := range forms {
		for _, value := range awkward {
			if form == "database" && strings.Contains(value, "@") {
				continue // is refused, as a password that was not encoded would be
			}
			u, err := upstream.Parse(expand(test.text, value))
			if err != nil {
				t.Errorf("%s, %s: %v", form, value, err)
				continue
			}
			if got := test.read(u); got != value {
				t.Errorf("%s: got %q, want %q", form, got, value)
			}
		}
	}
}

func TestValuesThatAreMoreThanOnePart(t *testing.T) {
	tests := map[string]struct {
		text   string
		values []string
		want   string
	}{
		"the whole":              {"${V}", []string{"postgres://app:p%40ss@db/orders"}, "postgres://app:p%40ss@db/orders"},
		"the whole as pairs":     {"${V}", []string{"host=db password='a b'"}, "host=db password='a b'"},
		"all but the parameters": {"${V}?sslmode=disable", []string{"postgres://app@db/orders"}, "postgres://app@db/orders?sslmode=disable"},
		"all but the database":   {"${V}/orders", []string{"postgres://app@db:5432"}, "postgres://app@db:5432/orders"},
		"all but the scheme":     {"postgres://${V}", []string{"app:x@db/orders"}, "postgres://app:x@db/orders"},
		"hosts":                  {"postgres://app@${V}/orders", []string{"a:5432,[::1]:5433"}, "postgres://app@a:5432,[::1]:5433/orders"},
		"a port":                 {"postgres://app@db:${V}/orders", []string{"5433"}, "postgres://app@db:5433/orders"},
		"user and password":      {"postgres://${V}@db/orders", []string{"app:p@ss/w:d"}, "postgres://app:p%40ss%2Fw%3Ad@db/orders"},
		"parameters":             {"postgres://db/orders?${V}", []string{"sslmode=disable&user=a"}, "postgres://db/orders?sslmode=disable&user=a"},
		"more parameters":        {"postgres://db/orders?a=b&${V}", []string{"sslmode=disable&user=a"}, "postgres://db/orders?a=b&sslmode=disable&user=a"},
		"pairs behind pairs":     {"host=db ${V}", []string{"user=app password=x"}, "host=db user=app password=x"},
		"several":                {"postgres://${V}:${V}@${V}:${V}/${V}?sslmode=${V}", []string{"a@b", "p/w", "db", "5432", "or?ders", "disable"}, "postgres://a%40b:p%2Fw@db:5432/or%3Fders?sslmode=disable"},
		"Redis":                  {"redis://:${V}@redis:6379/0", []string{"p@ss/w"}, "redis://:p%40ss%2Fw@redis:6379/0"},
		"Sentinel":               {"redis+sentinel://a,b/${V}", []string{"main/0"}, "redis+sentinel://a,b/main/0"},
		"nothing":                {"host=db password=${V} user=app", []string{""}, "host=db password='' user=app"},
	}
	for name, test := range tests {
		if got := expand(test.text, test.values...); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

func TestWhatLooksEncodedIsDoubtful(t *testing.T) {
	for value, want := range map[string]bool{"p%40ss": true, "100%": false, "plain": false, "a@%40": false} {
		if _, doubtful := upstream.Insert("postgres://app:", value, "@db/orders"); doubtful != want {
			t.Errorf("%s: %v", value, doubtful)
		}
	}
}
