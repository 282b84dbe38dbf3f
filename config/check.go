package config

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/weirproxy/weir/auth"
	"github.com/weirproxy/weir/limiter"
	"github.com/weirproxy/weir/upstream"
)

// check compares what was read: ranges that a type cannot express, and settings that contradict each other. It leaves
// alone what had a problem already. At the end every rule has its defaults.
func (r *reader) check(cfg *Config) {
	r.checkAddresses(cfg)
	r.checkTokens(cfg.Admin)
	r.checkTLS(cfg.TLS)
	r.checkAuth(cfg)
	r.checkConsoleUsers("admin_users", cfg.AdminUsers, cfg)
	r.checkConsoleUsers("stats_users", cfg.StatsUsers, cfg)
	if cfg.Fleet != nil && r.ok("fleet") {
		cfg.Fleet.Validate(r.under("fleet"))
	}
	r.oneOf("log.level", cfg.Log.Level, "debug", "info", "warn", "error")
	r.oneOf("log.format", cfg.Log.Format, "text", "json")
	r.checkResources(cfg)
	r.checkMockKey(cfg)
	r.checkFiles(cfg)
}

// oneOf reports a word that is not among the known ones.
func (r *reader) oneOf(path, value string, known ...string) {
	if slices.Contains(known, value) || !r.ok(path) {
		return
	}
	what := r.subject(path) + "is unknown"
	if near := nearest(value, known); near != "" && r.subject(path) != "" {
		what += "; did you mean " + near + "?"
	}
	expected := known[0]
	if len(known) > 1 {
		expected = "one of " + strings.Join(known, ", ")
	}
	r.problem(path, what, expected)
}

func (r *reader) checkAddresses(cfg *Config) {
	r.checkAddress("listen", cfg.Listen)
	r.checkAddress("admin.listen", cfg.Admin.Listen)
	if r.ok("listen", "admin", "admin.listen") && sameAddress(cfg.Listen, cfg.Admin.Listen) {
		path, other := "admin.listen", "listen"
		if _, written := r.at[path]; !written { // then it is listen that met the default
			path, other = other, path
		}
		r.problem(path, r.subject(path)+"is the address of "+other+" as well", "another port")
	}
}

func (r *reader) checkAddress(path, address string) {
	if !r.ok(path) {
		return
	}
	const expected = "host:port with a port from 0 to 65535"
	host, port, err := net.SplitHostPort(address)
	switch {
	case err != nil:
		r.problem(path, r.subject(path)+"is not an address", expected)
	case !isPort(port):
		r.problem(path, r.subject(path)+"has no usable port", expected)
	case strings.ContainsAny(host, " /%") && net.ParseIP(strings.Split(host, "%")[0]) == nil:
		r.problem(path, r.subject(path)+"has no usable host", expected)
	}
}

func isPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == port
}

// sameAddress says whether both cannot be listened on at once.
func sameAddress(a, b string) bool {
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	if portA != portB || portA == "0" {
		return false
	}
	return hostA == hostB || isWildcard(hostA) || isWildcard(hostB) || isLoopback(hostA) && isLoopback(hostB)
}

func isWildcard(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func onLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && isLoopback(host)
}

func (r *reader) checkTokens(admin Admin) {
	if !r.ok("admin", "admin.read_token", "admin.write_token") {
		return
	}
	if admin.ReadToken.IsZero() && admin.WriteToken.IsZero() && !onLoopback(admin.Listen) {
		r.problem("admin.listen", r.subject("admin.listen")+"can be reached from other machines, and there is no token",
			"a loopback address, or read_token beside listen")
	}
	if !admin.ReadToken.IsZero() && admin.ReadToken.Equal(admin.WriteToken) {
		r.problem("admin.write_token", "is the same as read_token, so whoever may read may also change", "a token of its own")
	}
}

func (r *reader) checkTLS(t TLS) {
	r.oneOf("tls.mode", string(t.Mode), "disable", "prefer", "require", "verify-ca", "verify-full")
	if !r.ok("tls", "tls.mode") {
		return
	}
	verifies := t.Mode == TLSVerifyCA || t.Mode == TLSVerifyFull
	if t.Mode != TLSDisable {
		if t.Cert == "" {
			r.problem("tls.cert", "is missing, but tls.mode "+string(t.Mode)+" needs it", "a PEM file")
		}
		if t.Key == "" {
			r.problem("tls.key", "is missing, but tls.mode "+string(t.Mode)+" needs it", "a PEM file")
		}
	}
	if verifies && t.ClientCA == "" {
		r.problem("tls.client_ca", "is missing, but tls.mode "+string(t.Mode)+" needs it", "a PEM file")
	}
	if !verifies && t.ClientCA != "" {
		r.warn("tls.client_ca", "has no effect with tls.mode "+string(t.Mode)+"; only verify-ca and verify-full ask clients for certificates")
	}
	if t.Mode == TLSDisable {
		return
	}
	cert, key, ca := r.pem("tls.cert", t.Cert), r.pem("tls.key", t.Key), r.pem("tls.client_ca", t.ClientCA)
	if cert != nil && key != nil {
		if _, err := tls.X509KeyPair(cert, key); err != nil {
			r.problem("tls.cert", "does not make a pair with tls.key: "+strings.TrimPrefix(err.Error(), "tls: "), "PEM files of a certificate and its private key")
		}
	}
	if ca != nil && !x509.NewCertPool().AppendCertsFromPEM(ca) {
		r.problem("tls.client_ca", "holds no certificate", "a PEM file of certificates")
	}
}

// pem reads a file of the configuration, or reports why it cannot.
func (r *reader) pem(path, file string) []byte {
	if file == "" || !r.ok(path) {
		return nil
	}
	data, err := r.src.ReadFile(file)
	if err != nil {
		r.problem(path, r.subject(path)+"cannot be read: "+why(err), "a readable PEM file")
		return nil
	}
	return data
}

func (r *reader) checkAuth(cfg *Config) {
	method := cfg.Auth.Method
	r.oneOf("auth.method", string(method), "trust", "password", "md5", "scram-sha-256")
	for _, name := range slices.Sorted(maps.Keys(cfg.Users)) {
		path := join("users", name)
		if what, expected := badName(name); what != "" {
			r.problem(path, what, expected)
		}
		r.checkPassword(join(path, "password"), cfg.Users[name].Password, method)
	}
	if !r.ok("auth", "auth.method", "users") {
		return
	}
	if method != AuthTrust && len(cfg.Users) == 0 {
		r.problem("users", "is missing, but auth.method "+string(method)+" lets in only who is listed there", "names with their passwords")
	}
	if r.ok("listen") && !onLoopback(cfg.Listen) {
		if method == AuthTrust {
			r.warn("auth.method", "trust lets in everybody who can reach "+cfg.Listen+", without a password; expected scram-sha-256, or a loopback address in listen")
		}
		if method == AuthPassword && r.ok("tls", "tls.mode") && (cfg.TLS.Mode == TLSDisable || cfg.TLS.Mode == TLSPrefer) {
			r.warn("auth.method", "password sends passwords in clear text, and tls.mode "+string(cfg.TLS.Mode)+" lets clients come without TLS; expected scram-sha-256, or tls.mode require")
		}
	}
}

// checkPassword reports a secret that the method cannot use. What is a verifier or a hash is decided by the package that uses it,
// as PostgreSQL does for rolpassword, except that a broken verifier or hash is not taken for somebody's password.
func (r *reader) checkPassword(path string, password Secret, method AuthMethod) {
	if !r.ok(parent(path), path) {
		return
	}
	text := password.Reveal()
	knows := r.ok("auth", "auth.method")
	if text == "" {
		if knows && method != AuthTrust {
			r.problem(path, "is missing, but auth.method "+string(method)+" needs it", "a SCRAM verifier, an md5 hash, or the password")
		}
		return
	}
	secret, err := auth.ParseSecret(text)
	switch {
	case err != nil && strings.HasPrefix(text, scramPrefix):
		r.problem(path, "begins like a SCRAM verifier but is none; was it cut, or were its $ expanded by a shell?", "SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey as in pg_authid.rolpassword")
	case err != nil && strings.HasPrefix(text, "md5"):
		r.problem(path, "looks like an md5 hash but is none", "md5 and 32 digits of 0123456789abcdef, as in pg_authid.rolpassword")
	case err != nil:
		r.problem(path, "cannot be a password: it holds a character that no client can send", "a SCRAM verifier, an md5 hash, or the password")
	case secret.Kind() == auth.Verifier && knows && method == AuthMD5:
		r.problem(path, "is a SCRAM verifier, which auth.method md5 cannot use", "an md5 hash or the password itself, or auth.method scram-sha-256")
	case secret.Kind() == auth.MD5Hash && knows && method == AuthSCRAM:
		r.problem(path, "is an md5 hash, which auth.method scram-sha-256 cannot use", "a SCRAM verifier or the password itself, or auth.method md5")
	case secret.Kind() == auth.PlainText && !r.expanded[path]:
		r.warn(path, "is written in plain text; expected a SCRAM verifier, or the password from ${ENV} or ${file:/run/secrets/name}")
	}
}

const scramPrefix = "SCRAM-SHA-256$"

// leastMockKey is how long random text must be that nobody finds by trying, in bytes.
const leastMockKey = 16

// checkMockKey sees to it that what strangers may try guesses against is not a secret that is worth finding.
func (r *reader) checkMockKey(cfg *Config) {
	const path, expected = "auth.mock_key", "random text of its own, as by openssl rand -base64 32"
	key := cfg.Auth.MockKey
	if key.IsZero() || !r.ok("auth", path, "users", "admin", "resources") {
		return
	}
	used := key.Equal(cfg.Admin.ReadToken) || key.Equal(cfg.Admin.WriteToken)
	for _, user := range cfg.Users {
		used = used || key.Equal(user.Password)
	}
	for _, res := range cfg.Resources {
		if u, err := upstream.Parse(res.Upstream.Reveal()); err == nil {
			used = used || key.Equal(NewSecret(u.Password()))
		}
	}
	if used {
		r.problem(path, "is a password or a token as well, which strangers could then guess", expected)
	} else if len(key.Reveal()) < leastMockKey {
		r.warn(path, "is short enough to be guessed, and then tells who is a user; expected "+expected)
	}
}

func (r *reader) checkConsoleUsers(path string, names []string, cfg *Config) {
	seen := map[string]bool{}
	for i, name := range names {
		item := fmt.Sprintf("%s[%d]", path, i)
		if !r.ok(item) {
			continue
		}
		if seen[name] {
			r.problem(item, r.subject(item)+"is listed twice", "each user once")
		}
		seen[name] = true
		if _, known := cfg.Users[name]; !known && r.mustBeListed(cfg) {
			r.problem(item, r.subject(item)+"is not in users", "the name of a user")
		}
	}
}

// mustBeListed says that only who is in users can log in, and that users was read.
func (r *reader) mustBeListed(cfg *Config) bool {
	return r.ok("auth", "auth.method", "users") && cfg.Auth.Method != AuthTrust
}

// maxName is PostgreSQL's limit for names, in bytes.
const maxName = 63

// badName says why PostgreSQL cannot have a user or database of this name.
func badName(name string) (what, expected string) {
	switch {
	case name == "":
		return "is an empty name", "a name of 1 to 63 bytes"
	case len(name) > maxName:
		return "is longer than a name in PostgreSQL", "a name of 1 to 63 bytes"
	case strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return "has a control character in its name", "a name of 1 to 63 bytes"
	}
	return "", ""
}

func badResourceName(name string) (what, expected string) {
	if name == "weir" || name == "pgbouncer" {
		return "is the name of weir's own console", "another name"
	}
	return badName(name)
}

func (r *reader) checkResources(cfg *Config) {
	if _, written := r.at["resources"]; written && len(cfg.Resources) == 0 {
		r.problem("resources", "names no resource", "at least one")
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Resources)) {
		path := join("resources", name)
		if what, expected := badResourceName(name); what != "" {
			r.problem(path, what, expected)
		}
		resource := cfg.Resources[name]
		r.checkResource(path, &resource, cfg)
		cfg.Resources[name] = resource
	}
}

func (r *reader) checkResource(path string, res *Resource, cfg *Config) {
	if !r.ok(path) {
		return
	}
	r.checkKind(join(path, "kind"), res.Kind)
	r.checkUpstream(join(path, "upstream"), res.Upstream, cfg)
	r.oneOf(join(path, "pool_mode"), string(res.PoolMode), "transaction", "session", "statement")
	r.oneOf(join(path, "pinning"), string(res.Pinning), "pin", "warn", "refuse")
	r.oneOf(join(path, "reset"), string(res.Reset), "detected", "always")
	res.Pool().Validate(r.under(path))
	res.Queue.Validate(r.under(join(path, "queue")))
	res.Breaker.Validate(r.under(join(path, "breaker")))
	r.checkRate(join(path, "rate"), &res.Rate)
	connections := res.Connections
	if !r.ok(join(path, "connections")) {
		connections = int(^uint(0) >> 1) // unknown, so nothing is above it
	}
	if r.ok(join(path, "adaptive")) {
		if _, written := r.at[join(join(path, "adaptive"), "min")]; !written {
			res.Adaptive.Min = min(res.Adaptive.Min, connections)
		}
		res.Adaptive.Validate(connections, r.under(join(path, "adaptive")))
	}
	r.checkCallers(join(path, "callers"), res.Callers, connections, cfg)
}

func (r *reader) checkKind(path string, kind Kind) {
	if (kind == "tcp" || kind == "http") && r.ok(path) {
		r.problem(path, string(kind)+" is not served by this version", "postgres")
	}
	r.oneOf(path, string(kind), string(Postgres))
}

// checkUpstream finds a weir that would connect to itself, and passes on what else is to be said of the connection string.
func (r *reader) checkUpstream(path string, dsn DSN, cfg *Config) {
	if dsn.IsZero() || !r.ok(path) {
		return
	}
	parsed, err := upstream.Parse(dsn.Reveal())
	if err != nil {
		return
	}
	for _, w := range parsed.Warnings() {
		r.warn(path, w)
	}
	r.checkUpstreamFiles(path, parsed)
	if !r.ok("listen") {
		return
	}
	_, port, _ := net.SplitHostPort(cfg.Listen)
	for _, h := range parsed.Hosts() {
		host := cmp.Or(h.Address, h.Name)
		if isLoopback(host) && strconv.Itoa(int(h.Port)) == port && sameAddress(cfg.Listen, net.JoinHostPort(host, port)) {
			r.problem(path, "is the address weir itself listens on", "the address of the database")
		}
	}
}

func (r *reader) checkRate(path string, rate **limiter.Rate) {
	if *rate == nil || !r.ok(path) {
		return
	}
	filled := (*rate).WithDefaults()
	*rate = &filled
	filled.Validate(r.under(path))
}

func (r *reader) checkCallers(path string, callers []limiter.CallerRule, connections int, cfg *Config) {
	names := map[string]int{}
	for i := range callers {
		item := fmt.Sprintf("%s[%d]", path, i)
		if !r.ok(item) {
			continue
		}
		c := callers[i]
		c.Validate(connections, r.under(item))
		r.checkRate(join(item, "rate"), &callers[i].Rate)
		if first, again := names[c.Name]; again {
			name := join(item, "name")
			r.problem(name, r.subject(name)+fmt.Sprintf("is the name of callers[%d] as well", first), "each name once")
		} else if c.Name != "" {
			names[c.Name] = i
		}
		for j := range i {
			if callers[j].Match == c.Match && r.ok(join(item, "match")) && c.Match != (limiter.Match{}) {
				r.problem(join(item, "match"), fmt.Sprintf("is what callers[%d] matches before it", j), "other clients; the first match wins")
			}
		}
		r.checkCallerUser(join(join(item, "match"), "user"), c.Match, cfg)
	}
}

// checkCallerUser finds a rule for users who cannot log in.
func (r *reader) checkCallerUser(path string, match limiter.Match, cfg *Config) {
	if match.User == "" || !r.mustBeListed(cfg) || !r.ok(path) {
		return
	}
	for name := range cfg.Users {
		if (limiter.Match{User: match.User}).Matches(limiter.Identity{User: name}) {
			return
		}
	}
	r.problem(path, r.subject(path)+"is not in users", "the name of a user, or a pattern such as report_* that fits one")
}
