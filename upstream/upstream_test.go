package upstream_test

import (
	"context"
	"crypto/tls"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weirproxy/weir/upstream"
)

const secret = "hush-hush"

// none is an environment in which nothing is said.
func none(t *testing.T) {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "PG") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("HOME", t.TempDir())
}

func parse(t *testing.T, text string) *upstream.Upstream {
	t.Helper()
	u, err := upstream.Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return u
}

// In both forms of a connection string a keyword is honoured, or refused by its name, and never sent to the server.
func TestKeywordsAreNotForTheServer(t *testing.T) {
	none(t)
	type sent map[string]string
	tests := map[string]struct {
		refused string // how the error begins
		sent    sent   // to the server
	}{
		"keepalives=1":                            {},
		"keepalives=0":                            {},
		"keepalives_idle=30":                      {},
		"keepalives_interval=5":                   {},
		"keepalives_count=3":                      {},
		"tcp_user_timeout=5000":                   {},
		"tcp_user_timeout=soon":                   {refused: "has a tcp_user_timeout that is not a whole number"},
		"keepalives_idle=30s":                     {refused: "has a keepalives_idle that is not a whole number"},
		"fallback_application_name=x":             {sent: sent{"application_name": "x"}},
		"application_name=y":                      {sent: sent{"application_name": "y"}},
		"client_encoding=auto":                    {sent: sent{"client_encoding": "UTF8"}},
		"client_encoding=LATIN1":                  {sent: sent{"client_encoding": "LATIN1"}},
		"gssencmode=disable":                      {},
		"gssencmode=prefer":                       {},
		"gssencmode=require":                      {refused: "has a gssencmode that weir cannot honour"},
		"gssdelegation=0":                         {},
		"gssdelegation=1":                         {refused: "has a gssdelegation that weir cannot honour"},
		"gsslib=gssapi":                           {},
		"krbsrvname=postgres":                     {},
		"sslcompression=0":                        {},
		"sslcompression=1":                        {refused: "has a sslcompression that weir cannot honour"},
		"ssl_min_protocol_version=TLSv1.3":        {},
		"ssl_max_protocol_version=TLSv1.2":        {},
		"ssl_min_protocol_version=SSLv3":          {refused: "has an unknown ssl_min_protocol_version"},
		"sslcrl=crl.pem":                          {refused: "has sslcrl, which weir does not take"},
		"sslcrldir=crl":                           {refused: "has sslcrldir, which weir does not take"},
		"sslkeylogfile=keys":                      {refused: "has sslkeylogfile, which weir does not take"},
		"requirepeer=postgres":                    {refused: "has requirepeer, which weir does not take"},
		"requiressl=1":                            {refused: "has requiressl, which weir does not take"},
		"ssl=1":                                   {refused: "has ssl, which weir does not take"},
		"scram_client_key=x":                      {refused: "has scram_client_key, which weir does not take"},
		"oauth_issuer=x":                          {refused: "has oauth_issuer, which weir does not take"},
		"load_balance_hosts=disable":              {},
		"load_balance_hosts=random":               {},
		"load_balance_hosts=sometimes":            {refused: "has an unknown load_balance_hosts"},
		"replication=database":                    {refused: "has a replication that weir cannot honour"},
		"hostaddr=127.0.0.2":                      {},
		"hostaddr=somewhere":                      {refused: "has a hostaddr that is not an IP address"},
		"hostaddr=127.0.0.2,127.0.0.3":            {refused: "lists more or fewer addresses in hostaddr than hosts"},
		"target_session_attrs=any":                {},
		"channel_binding=prefer":                  {},
		"require_auth=scram-sha-256":              {},
		"sslsni=0":                                {},
		"sslnegotiation=postgres":                 {},
		"connect_timeout=3":                       {},
		"min_protocol_version=3.0":                {},
		"options=-csearch_path%3Dx":               {sent: sent{"options": "-csearch_path=x"}},
		"search_path=x":                           {sent: sent{"search_path": "x"}},
		"statement_timeout=5s":                    {sent: sent{"statement_timeout": "5s"}},
		"TimeZone=UTC":                            {sent: sent{"TimeZone": "UTC"}},
		"app.tenant=7":                            {sent: sent{"app.tenant": "7"}},
		"pgbouncer=true":                          {refused: "has pgbouncer, an option of Prisma's"},
		"schema=public":                           {refused: "has schema, the way of Prisma"},
		"connection_limit=5":                      {refused: "has connection_limit, a size of a driver's own pool"},
		"pool_timeout=5":                          {refused: "has pool_timeout, a timeout of a driver"},
		"sslaccept=strict":                        {refused: "has sslaccept, how a driver checks certificates"},
		"statement_cache_size=0":                  {refused: "has statement_cache_size, how a driver prepares"},
		"currentSchema=x":                         {refused: "has currentSchema, the way of"},
		"prepareThreshold=0":                      {refused: "has prepareThreshold, how a driver prepares"},
		"ApplicationName=x":                       {refused: "has ApplicationName, the way of JDBC"},
		"reWriteBatchedInserts=true":              {refused: "has reWriteBatchedInserts, an option of JDBC"},
		"pool_max_conns=5":                        {refused: "has pool_max_conns, a size of a driver's own pool"},
		"default_query_exec_mode=simple_protocol": {refused: "has default_query_exec_mode, how a driver prepares"},
	}
	for setting, test := range tests {
		key, value, _ := strings.Cut(setting, "=")
		for form, text := range map[string]string{
			"url":   "postgres://app:" + secret + "@127.0.0.1/orders?sslmode=disable&" + setting,
			"pairs": "host=127.0.0.1 user=app password=" + secret + " sslmode=disable " + key + "='" + strings.ReplaceAll(value, "%3D", "=") + "'",
		} {
			u, err := upstream.Parse(text)
			if test.refused != "" {
				if err == nil || !strings.HasPrefix(err.Error(), test.refused) || !strings.Contains(err.Error(), "; expected ") {
					t.Errorf("%s as %s: %v, want %q", setting, form, err, test.refused)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s as %s: %v", setting, form, err)
				continue
			}
			if got := u.Config().RuntimeParams; !maps.Equal(got, test.sent) {
				t.Errorf("%s as %s: the server gets %v, want %v", setting, form, got, test.sent)
			}
			if w := u.Warnings(); len(w) > 0 {
				t.Errorf("%s as %s: warnings %q", setting, form, w)
			}
		}
	}
}

func TestWhatNobodyKnowsIsNamed(t *testing.T) {
	none(t)
	for query, want := range map[string]string{
		"serch_path=x":      "has serch_path, which neither libpq nor PostgreSQL knows",
		"4=" + secret + "@": "has a setting that neither libpq nor PostgreSQL knows",
		"statement_timeout": "",
	} {
		u, err := upstream.Parse("postgres://app@127.0.0.1/orders?sslmode=disable&" + query)
		if err != nil {
			continue // of a form that libpq does not take either
		}
		got := strings.Join(u.Warnings(), "\n")
		if !strings.HasPrefix(got, want) || strings.Contains(got, secret) {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}

func TestApplicationNameComesFirst(t *testing.T) {
	none(t)
	for query, want := range map[string]string{
		"fallback_application_name=a&application_name=b": "b",
		"application_name=b&fallback_application_name=a": "b",
		"fallback_application_name=a":                    "a",
	} {
		if got := parse(t, "postgres://db/orders?"+query).Config().RuntimeParams["application_name"]; got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	t.Setenv("PGAPPNAME", "env")
	if got := parse(t, "postgres://db/orders?fallback_application_name=a").Config().RuntimeParams["application_name"]; got != "env" {
		t.Errorf("with PGAPPNAME: %q", got)
	}
}

// The ways to each host, in the order in which they are tried.
func TestWhichHostsMustSpeakTLS(t *testing.T) {
	none(t)
	service := filepath.Join(t.TempDir(), "services")
	if err := os.WriteFile(service, []byte("[a]\nhost=db\nsslmode=disable\n[b]\nhost=db\n[c]\nhost=db\nsslmode=verify-full\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const (
		tlsOnly     = "tls"
		plain       = "plain"
		either      = "tls,plain"
		plainFirst  = "plain,tls"
		noSSLMode   = "names no sslmode"
		turned      = "which anybody on the way to the database can turn"
		anyCert     = "which believes any certificate"
		unsuspected = ""
	)
	tests := []struct {
		text, env string // PGSSLMODE
		want      string // of each host, "; " between
		warning   string
	}{
		{"postgres://db/orders", "", tlsOnly, noSSLMode},
		{"host=db", "", tlsOnly, noSSLMode},
		{"host=db password=", "", tlsOnly, noSSLMode},
		{"host=db sslmode=", "", tlsOnly, noSSLMode},
		{"postgres://db/orders?sslmode=", "", tlsOnly, noSSLMode},
		{"postgres://db/orders?", "", tlsOnly, noSSLMode},
		{"postgres://db/orders?application_name=x&", "", tlsOnly, noSSLMode},
		{"host='db'user=app", "", tlsOnly, noSSLMode},
		{"host=db password='x sslmode=disable'", "", tlsOnly, noSSLMode},
		{"postgres://app:sslmode=disable@db/orders", "", tlsOnly, noSSLMode},
		{"postgres://app:p?sslmode=disable@db/orders", "", tlsOnly, noSSLMode},
		{"postgres://10.0.0.5/orders", "", tlsOnly, noSSLMode},
		{"postgres://127.0.0.1/orders", "", either, noSSLMode},
		{"postgres://[::1]/orders", "", either, noSSLMode},
		{"postgres://localhost/orders", "", either, noSSLMode},
		{"postgres:///orders?host=/run/postgresql", "", plain, unsuspected},
		{"postgres://localhost,db/orders", "", either + "; " + tlsOnly, noSSLMode},
		{"postgres://a,b:5433,127.0.0.1/orders", "", tlsOnly + "; " + tlsOnly + "; " + either, noSSLMode},
		{"postgres://db,db/orders", "", tlsOnly + "; " + tlsOnly, noSSLMode},
		{"postgres://localhost/orders?hostaddr=10.0.0.5", "", tlsOnly, noSSLMode},
		{"postgres://db/orders?hostaddr=127.0.0.1", "", either, noSSLMode},
		{"postgres:///orders?hostaddr=10.0.0.5", "", tlsOnly, noSSLMode},
		{"postgres://db/orders?sslmode=disable", "", plain, unsuspected},
		{"postgres://db/orders?sslmode=prefer", "", either, turned},
		{"postgres://db/orders?sslmode=allow", "", plainFirst, turned},
		{"postgres://db/orders?sslmode=require", "", tlsOnly, anyCert},
		{"postgres://db/orders?ssl=true", "", tlsOnly, anyCert},
		{"postgres://db/orders?sslmode=verify-full", "", tlsOnly, unsuspected},
		{"postgres://db/orders?sslrootcert=system", "", tlsOnly, unsuspected},
		{"postgres://db/orders?sslnegotiation=direct", "", tlsOnly, anyCert},
		{"postgres://127.0.0.1/orders?sslmode=prefer", "", either, unsuspected},
		{"postgres://db/orders", "disable", plain, unsuspected},
		{"postgres://db/orders", "prefer", either, turned},
		{"postgres://db/orders", "verify-full", tlsOnly, unsuspected},
		{"postgres://db/orders?sslmode=disable", "verify-full", plain, unsuspected},
		{"service=a servicefile=" + service, "", plain, unsuspected},
		{"service=b servicefile=" + service, "", tlsOnly, noSSLMode},
		{"service=c servicefile=" + service, "", tlsOnly, unsuspected},
	}
	for _, test := range tests {
		t.Setenv("PGSSLMODE", test.env)
		u := parse(t, test.text)
		var hosts []string
		for _, ways := range upstream.Ways(u) {
			var of []string
			for _, w := range ways {
				kind := plain
				if w.TLSConfig != nil {
					kind = tlsOnly
				}
				of = append(of, kind)
			}
			hosts = append(hosts, strings.Join(of, ","))
		}
		if got := strings.Join(hosts, "; "); got != test.want {
			t.Errorf("%s with PGSSLMODE=%s: %s, want %s", test.text, test.env, got, test.want)
		}
		c := u.Config()
		if n := strings.Count(test.want, ",") + strings.Count(test.want, ";") + 1; len(c.Fallbacks)+1 != n {
			t.Errorf("%s: %d ways, want %d", test.text, len(c.Fallbacks)+1, n)
		}
		got := strings.Join(u.Warnings(), "\n")
		if (got == "") != (test.warning == "") || !strings.Contains(got, test.warning) {
			t.Errorf("%s with PGSSLMODE=%s: warnings %q, want %q", test.text, test.env, got, test.warning)
		}
	}
}

func TestVersionsOfTLS(t *testing.T) {
	none(t)
	c := parse(t, "postgres://db/orders?ssl_min_protocol_version=TLSv1.3&sslmode=require").Config()
	if c.TLSConfig.MinVersion != tls.VersionTLS13 {
		t.Errorf("the least version is %x", c.TLSConfig.MinVersion)
	}
	if c := parse(t, "postgres://db/orders?ssl_max_protocol_version=TLSv1.2").Config(); c.TLSConfig.MaxVersion != tls.VersionTLS12 {
		t.Errorf("the highest version is %x", c.TLSConfig.MaxVersion)
	}
	_, err := upstream.Parse("postgres://db/orders?ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2")
	if err == nil || !strings.Contains(err.Error(), "above its ssl_max_protocol_version") {
		t.Errorf("bounds the wrong way round: %v", err)
	}
}

func TestHostsAreDialledAtTheirAddresses(t *testing.T) {
	none(t)
	u := parse(t, "host=primary,standby hostaddr=10.0.0.1,10.0.0.2 sslmode=verify-full")
	c := u.Config()
	for host, want := range map[string]string{"primary": "10.0.0.1", "standby": "10.0.0.2"} {
		if got, err := c.LookupFunc(context.Background(), host); err != nil || !slices.Equal(got, []string{want}) {
			t.Errorf("%s is at %v, %v", host, got, err)
		}
	}
	if c.TLSConfig.ServerName != "primary" {
		t.Errorf("the certificate must be of %q", c.TLSConfig.ServerName)
	}
	if c := parse(t, "hostaddr=10.0.0.1 sslmode=require").Config(); c.Host != "10.0.0.1" {
		t.Errorf("hostaddr alone dials %s", c.Host)
	}
}

func TestHostsInAnyOrder(t *testing.T) {
	none(t)
	u := parse(t, "postgres://a,b,c/orders?load_balance_hosts=random")
	seen := map[string]bool{}
	for range 200 {
		c := u.Config()
		seen[c.Host] = true
		if len(c.Fallbacks) != 2 {
			t.Fatalf("%d further hosts", len(c.Fallbacks))
		}
	}
	if len(seen) != 3 {
		t.Errorf("first was one of %v in 200 dials", seen)
	}
}

// Neither errors nor warnings show any value.
func TestNothingOfAConnectionStringIsShown(t *testing.T) {
	none(t)
	for _, text := range []string{
		"postgres://app:" + secret + "@db/orders?" + secret + "=1",
		"postgres://app:" + secret + "@db/orders?hostaddr=" + secret,
		"postgres://app:" + secret + "@db/orders?tcp_user_timeout=" + secret,
		"postgres://app:12/" + secret + "@db/orders",
		"postgres://app:1?x=" + secret + "@db/orders",
		"postgres://app:" + secret + " @db/orders",
		"postgres://app@db:" + secret + "/orders",
		"password=" + secret + " port=x",
		"password='" + secret,
		"service=" + secret,
	} {
		u, err := upstream.Parse(text)
		var shown string
		if err != nil {
			shown = err.Error()
		} else if text != "postgres://app:"+secret+"@db/orders?"+secret+"=1" {
			shown = strings.Join(u.Warnings(), "\n")
		}
		if strings.Contains(shown, secret) {
			t.Errorf("%s shows %s", text, shown)
		}
	}
}

// The options reach the socket.
func TestSocketOptions(t *testing.T) {
	none(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func(query string) net.Conn {
		t.Helper()
		c := parse(t, "postgres://127.0.0.1/orders?sslmode=disable&"+query).Config()
		conn, err := c.DialFunc(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	checkSockets(t, dial)
}
