package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/weirproxy/weir/admin"
	"github.com/weirproxy/weir/internal/golden"
	"github.com/weirproxy/weir/proxy"
)

// sessions are those of a made-up weir that has three more than anybody asks for.
func sessions(_ context.Context, f proxy.SessionFilter) (found []proxy.Session, more bool, err error) {
	for _, s := range []proxy.Session{
		{ID: 7, Resource: "orders", User: "fn", Database: "app", ApplicationName: "checkout", Client: "192.0.2.7:40000", State: proxy.Idle, PinnedBy: []string{}, StateMillis: 12},
		{ID: 8, Resource: "orders", User: "fn", Database: "app", ApplicationName: "bad\xff<name>", Client: "192.0.2.7:40001", State: proxy.Pinned, PinnedBy: []string{"listen", "temp_table"}, StateMillis: 90500, ServerPID: 4711},
		{ID: 5, Resource: "orders", User: "fn", Database: "app", Client: "[2001:db8::1]:5", State: proxy.Waiting, PinnedBy: []string{}, StateMillis: 12},
	} {
		if f.State == "" || s.State == f.State {
			found = append(found, s)
		}
	}
	return found, f.Limit < 3, nil
}

func TestSessionsAreListed(t *testing.T) {
	w := get(admin.New(options()), "/api/v1/sessions?resource=orders&limit=2")
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("status %d, %s: %s", w.Code, w.Header().Get("Content-Type"), w.Body)
	}
	golden.Compare(t, "testdata/sessions.golden", w.Body.String())
	var empty struct{ Sessions []json.RawMessage }
	if err := json.Unmarshal(get(admin.New(options()), "/api/v1/sessions?state=active").Body.Bytes(), &empty); err != nil || empty.Sessions == nil || len(empty.Sessions) != 0 {
		t.Errorf("none are %v, %v", empty, err)
	}
}

func TestWhatIsAskedOfSessions(t *testing.T) {
	tests := map[string]struct {
		query string
		want  proxy.SessionFilter
		wrong string // what the refusal says
	}{
		"nothing":             {"", proxy.SessionFilter{Limit: 1000}, ""},
		"everything":          {"?resource=orders&state=idle+in+transaction&limit=10000", proxy.SessionFilter{Resource: "orders", State: "idle in transaction", Limit: 10000}, ""},
		"an unknown resource": {"?resource=order", proxy.SessionFilter{}, `resource="order"; expected one of: orders`},
		"no resource":         {"?resource=", proxy.SessionFilter{}, `resource=""; expected one of: orders`},
		"an unknown state":    {"?state=sleeping", proxy.SessionFilter{}, `state="sleeping"; expected one of: idle, waiting, active, idle in transaction, pinned`},
		"no number":           {"?limit=many", proxy.SessionFilter{}, `limit="many"; expected a number from 1 to 10000, e.g. limit=100`},
		"too few":             {"?limit=0", proxy.SessionFilter{}, `limit="0"; expected a number`},
		"too many":            {"?limit=10001", proxy.SessionFilter{}, `limit="10001"; expected a number`},
		"far too many":        {"?limit=99999999999999999999", proxy.SessionFilter{}, "expected a number"},
		"an unknown name":     {"?states=idle", proxy.SessionFilter{}, `unknown parameter "states"; expected resource, state or limit`},
		"twice":               {"?state=idle&state=active", proxy.SessionFilter{}, "state is given 2 times; expected once"},
		"what is no query":    {"?limit=%zz", proxy.SessionFilter{}, "the query string cannot be read"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			opts := options()
			var asked []proxy.SessionFilter
			opts.Sessions = func(_ context.Context, f proxy.SessionFilter) ([]proxy.Session, bool, error) {
				asked = append(asked, f)
				return nil, false, nil
			}
			w := get(admin.New(opts), "/api/v1/sessions"+test.query)
			if test.wrong != "" {
				if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), test.wrong) || len(asked) != 0 {
					t.Errorf("got %d %q, want 400 %q", w.Code, w.Body, test.wrong)
				}
				return
			}
			if w.Code != http.StatusOK || len(asked) != 1 || asked[0] != test.want {
				t.Errorf("got %d %q, asked %+v, want %+v", w.Code, w.Body, asked, test.want)
			}
		})
	}
}

func TestSessionsThatCannotBeLookedAt(t *testing.T) {
	opts := options()
	opts.Sessions = func(ctx context.Context, _ proxy.SessionFilter) ([]proxy.Session, bool, error) {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("it may wait for ever")
		}
		return nil, false, errors.New("busy")
	}
	if w := get(admin.New(opts), "/api/v1/sessions"); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "have not answered") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}
