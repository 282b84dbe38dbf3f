package storm_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirproxy/weir/internal/golden"
	"github.com/weirproxy/weir/storm"
)

const someDSN = "postgres://app:secret@localhost/app?sslmode=disable"

func TestPlansThatCannotBe(t *testing.T) {
	steady := storm.Steady(10, time.Second)
	tests := map[string]struct {
		plan storm.Plan
		want string
	}{
		"no DSN":                  {storm.Plan{Load: steady}, "dsn: is missing; expected a postgres:// URL"},
		"a DSN that is none":      {storm.Plan{DSN: "postgres://a:b@h:x/y", Load: steady}, "dsn: has a port that is not a number"},
		"no load":                 {storm.Plan{DSN: someDSN}, "load: is missing; expected phases"},
		"a load of nothing":       {storm.Plan{DSN: someDSN, Load: storm.Steady(0, time.Second)}, "load: starts no function"},
		"a load that is too long": {storm.Plan{DSN: someDSN, Load: storm.Load{Phases: slices.Repeat([]storm.Phase{{From: 1, To: 1, For: time.Hour}}, 2)}}, "load: takes 2h; expected at most 1h"},
		"too many connections":    {storm.Plan{DSN: someDSN, Load: steady, Kept: 20_001}, "kept: 20001 is out of bounds; expected 1 to 20000"},
		"another way to connect":  {storm.Plan{DSN: someDSN, Load: steady, Connections: "pooled"}, `connections: "pooled" is not a way`},
		"SQL and work":            {storm.Plan{DSN: someDSN, Load: steady, Function: storm.Function{SQL: "SELECT 1", Work: time.Second}}, "work: is given beside sql"},
		"a negative deadline":     {storm.Plan{DSN: someDSN, Load: steady, Function: storm.Function{Deadline: -1}}, "deadline: -1ns is out of bounds; expected 1ms to 15m"},
		"SQL that is empty":       {storm.Plan{DSN: someDSN, Load: steady, Function: storm.Function{SQL: ";"}}, "callers[0].sql: holds no statement"},
		"a warm-up of all of it":  {storm.Plan{DSN: someDSN, Load: steady, Warmup: time.Second}, "warmup: 1s leaves nothing"},
		"a series too fine":       {storm.Plan{DSN: someDSN, Load: storm.Steady(1, time.Hour), Resolution: 10 * time.Millisecond}, "resolution: 10ms makes a series of 360000 points; expected at most 100000"},
		"a caller without a name": {storm.Plan{DSN: someDSN, Load: steady, Callers: []storm.Caller{{}}}, "callers[0].name: is missing"},
		"two of one name":         {storm.Plan{DSN: someDSN, Load: steady, Callers: []storm.Caller{{Name: "a"}, {Name: "a"}}}, `callers[1].name: "a" is the name of another caller already`},
		"shares below 1":          {storm.Plan{DSN: someDSN, Load: steady, Callers: []storm.Caller{{Name: "a", Share: 0.3}, {Name: "b", Share: 0.4}}}, "callers: have shares of 0.7 in all; expected 1"},
		"nothing left for one":    {storm.Plan{DSN: someDSN, Load: steady, Callers: []storm.Caller{{Name: "a", Share: 1}, {Name: "b"}}}, "callers: have shares of 1 in all"},
		"a share and a load":      {storm.Plan{DSN: someDSN, Load: steady, Callers: []storm.Caller{{Name: "a", Share: 1, Load: steady}}}, "callers[0].share: is given beside load"},
		"an unknown priority":     {storm.Plan{DSN: someDSN, Load: steady, Callers: []storm.Caller{{Name: "a", Priority: "high"}}}, `callers[0].priority: "high" is not a priority; expected critical, normal, batch or sheddable`},
		"too fast together": {storm.Plan{DSN: someDSN, Callers: []storm.Caller{
			{Name: "a", Load: storm.Steady(30_000, time.Second)}, {Name: "b", Load: storm.Steady(30_000, time.Second)},
		}}, "callers: start up to 60000 functions a second in all; expected at most 50000"},
		"a question to the server": {storm.Plan{DSN: someDSN + "&target_session_attrs=read-write", Load: steady}, "dsn: has target_session_attrs"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := test.plan.Validate()
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%v tells the password", err)
			}
		})
	}
}

func TestParseCaller(t *testing.T) {
	got, err := storm.ParseCaller(`name=checkout,share=0.2,user=fn,application_name=shop,priority=critical,deadline=800ms,sql="SELECT "" AS a"", random(1,9)",load="9/s for 1s, 5/s for 1s"`)
	if err != nil {
		t.Fatal(err)
	}
	load, _ := storm.ParseLoad("9/s for 1s, 5/s for 1s")
	want := storm.Caller{
		Name: "checkout", Share: 0.2, User: "fn", ApplicationName: "shop", Priority: "critical",
		Function: storm.Function{SQL: `SELECT " AS a", random(1,9)`, Deadline: 800 * time.Millisecond}, Load: load,
	}
	if got.Load.String() != want.Load.String() {
		t.Errorf("load %q, want %q", got.Load, want.Load)
	}
	got.Load, want.Load = storm.Load{}, storm.Load{}
	if !equalCallers(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}

	for text, want := range map[string]string{
		"":                     "caller: has no name",
		"checkout":             `caller: "checkout" is not a key=value pair`,
		"name=a,share=many":    `caller: share: "many" is not a number; e.g. 0.2`,
		"name=a,name=b":        "caller: name is given twice",
		"name=a,rate=5":        "caller: rate: is not known; expected one of application_name, connections, database,",
		`name="a`:              "caller: name has no quote at its end",
		`name="a"b,share=1`:    `caller: name is followed by "b,share=1"`,
		"name=a,sql=gone.sql":  "caller: sql_file: stat gone.sql: no such file",
		"name=a,deadline=soon": `caller: deadline: "soon" is not a duration; e.g. 1s`,
	} {
		if _, err := storm.ParseCaller(text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

func equalCallers(a, b storm.Caller) bool {
	return a.Name == b.Name && a.Share == b.Share && a.User == b.User && a.ApplicationName == b.ApplicationName &&
		a.Priority == b.Priority && a.Function == b.Function
}

func TestPlanFile(t *testing.T) {
	path := filepath.Join("testdata", "plan.yaml")
	file := readPlan(t, path)
	p := file.Plan
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	if p.DSN != "postgres://app:s3cret@weir:6432/orders" {
		t.Errorf("DSN %s: ${DB_PASSWORD} is not what the environment says", p.DSN)
	}
	if got, want := p.Load.String(), "200/s for 10s, 3000/s for 5s, ramp to 500/s for 10s"; got != want {
		t.Errorf("load %s, want %s", got, want)
	}
	if p.Connections != storm.Kept || p.Kept != 300 || p.Deadline != time.Second || !p.SayDeadline || p.Retries != 2 || !p.HeedHint {
		t.Errorf("plan %+v", p)
	}
	if len(p.Callers) != 3 {
		t.Fatalf("%d callers, want 3", len(p.Callers))
	}
	checkout, reports, cron := p.Callers[0], p.Callers[1], p.Callers[2]
	if checkout.Share != 0.2 || checkout.Priority != "critical" || checkout.SQL != "SELECT random(1, 5);\nSELECT 2;\n" {
		t.Errorf("checkout is %+v", checkout)
	}
	if reports.Work != 40*time.Millisecond || reports.Deadline != 5*time.Second || reports.Options != "-c work_mem=1MB" {
		t.Errorf("reports is %+v", reports)
	}
	if got, want := cron.Load.String(), "100 at once, 5/s for 20s"; got != want {
		t.Errorf("cron's load %s, want %s", got, want)
	}
	if want := []storm.Target{{"weir", "postgres://app@weir/orders"}, {"direct", "postgres://app@db/orders"}}; !slices.Equal(file.Targets, want) {
		t.Errorf("targets %v, want %v", file.Targets, want)
	}
}

func readPlan(t *testing.T, path string) *storm.File {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := storm.ParseFile(path, data, planEnvironment)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func planEnvironment(name string) (string, bool) {
	return "s3cret", name == "DB_PASSWORD"
}

// Each file of testdata/mistakes holds a plan, and behind it what is wrong with it, as comments.
func TestMistakesInPlanFilesSayWhereAndWhat(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("testdata", "mistakes", "*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no mistakes: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := "nothing is wrong\n"
			file, err := storm.ParseFile(path, data, planEnvironment)
			if err == nil {
				if err = file.Plan.Validate(); err != nil {
					err = file.Explain(err)
				}
			}
			if err != nil {
				got = err.Error() + "\n"
			}
			if strings.Contains(got, "hunter2") {
				t.Errorf("a password is told: %s", got)
			}
			golden.Compare(t, strings.TrimSuffix(path, ".yaml")+".txt", got)
		})
	}
}

func TestPlanFilesThatWouldCostTooMuch(t *testing.T) {
	for name, text := range map[string]string{
		"deep":       strings.Repeat("[", 500_000),
		"dashes":     strings.Repeat("- ", 500_000),
		"many keys":  strings.Repeat("a: b\n", 6000),
		"a megabyte": strings.Repeat("#", 1<<20+1),
	} {
		_, err := storm.ParseFile("plan.yaml", []byte(text), planEnvironment)
		if err == nil || !strings.Contains(err.Error(), "too long") && !strings.Contains(err.Error(), "larger than 1 MiB") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzParseFile(f *testing.F) {
	paths, _ := filepath.Glob(filepath.Join("testdata", "*", "*.yaml"))
	for _, path := range append(paths, filepath.Join("testdata", "plan.yaml")) {
		if data, err := os.ReadFile(path); err == nil {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4096 {
			t.Skip("the parser takes its time for what is long")
		}
		file, err := storm.ParseFile("plan.yaml", data, planEnvironment)
		if err == nil {
			_ = file.Plan.Validate()
		}
	})
}
