package admin_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/weirproxy/weir/admin"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/proxy"
)

// refused are ids of refusals: of a transaction by rate, and of one by the same rate in shadow mode.
func refused(t *testing.T) (opts admin.Options, ids []string) {
	t.Helper()
	opts = options()
	opts.Refusals = proxy.NewRefusals()
	for _, mode := range []limiter.Mode{limiter.Enforce, limiter.Shadow} {
		rate := limiter.Rate{PerSecond: 0.001, Burst: 1, Mode: mode}
		g := proxy.NewGate(proxy.GateOptions{Name: "orders", Connections: 5, Rate: rate, Bucket: limiter.NewLocal(rate, nil), Refusals: opts.Refusals})
		r := proxy.Request{Caller: g.Callers().Find(limiter.Identity{User: "app"}), Level: limiter.LevelNormal}
		for range 2 {
			_, _ = g.Admit(new(proxy.Ticket), r, nil) // how it ends is what the refusals say
		}
	}
	for _, r := range opts.Refusals.Last(10, func(*proxy.RefusalRecord) bool { return true }) {
		ids = append(ids, r.ID)
	}
	if len(ids) != 2 {
		t.Fatalf("%d refusals are remembered, want 2", len(ids))
	}
	return opts, ids
}

func TestRefusalsAreListed(t *testing.T) {
	opts, ids := refused(t)
	server := admin.New(opts)
	for query, want := range map[string][]string{
		"":                                   ids,
		"?limit=1":                           ids[:1],
		"?id=" + ids[1]:                      ids[1:],
		"?id=unknown":                        {},
		"?mode=shadow&resource=orders":       ids[:1],
		"?mode=enforce&reason=rate":          ids[1:],
		"?reason=shed":                       {},
		"?caller=default&reason=rate&limit=": nil,
	} {
		w := get(server, "/api/v1/refusals"+query)
		if want == nil {
			if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "expected a number from 1 to 1000") {
				t.Errorf("%s: %d %s", query, w.Code, w.Body)
			}
			continue
		}
		var got struct{ Refusals []proxy.RefusalRecord }
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Refusals == nil || len(got.Refusals) != len(want) {
			t.Errorf("%s: %v, %s", query, err, w.Body)
			continue
		}
		for i, r := range got.Refusals {
			if r.ID != want[i] || r.Rule != "resources.orders.rate" || r.SQLSTATE != "53400" || r.Limit != "0.001/s" || r.RetryMillis == 0 {
				t.Errorf("%s: %+v", query, r)
			}
		}
	}
}

func TestWhatIsAskedOfRefusals(t *testing.T) {
	opts, _ := refused(t)
	server := admin.New(opts)
	for query, wrong := range map[string]string{
		"?reason=because": `reason="because"; expected one of: rate, `,
		"?mode=off":       `mode="off"; expected one of: enforce, shadow`,
		"?resource=order": `resource="order"; expected one of: orders`,
		"?limit=1001":     "expected a number from 1 to 1000",
		"?ids=1":          `unknown parameter "ids"; expected id, resource, reason, caller, mode or limit`,
		"?id=1&id=2":      "id is given 2 times; expected once",
		"?mode=%zz":       "the query string cannot be read",
	} {
		if w := get(server, "/api/v1/refusals"+query); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), wrong) {
			t.Errorf("%s: %d %q, want 400 %q", query, w.Code, w.Body, wrong)
		}
	}
}
