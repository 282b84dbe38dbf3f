package postgres

import "testing"

// What a plain SET leads to is remembered. What is not plain to see never is.
func TestWhichSetsArePlain(t *testing.T) {
	for sql, want := range map[string]bool{
		"SET a = 1":                             true,
		"set Session a To 'x y'; ":              true,
		"SET a=-1.5":                            true,
		"SET search_path TO \"$user\", public":  true,
		"/* c */ SET TIME ZONE 'UTC'":           true,
		"SET SESSION TIME ZONE -3":              true,
		"SET statement_timeout = '5s'":          true,
		"SET client_min_messages TO 'warning';": true,
		"":                                      false,
		"SET":                                   false,
		"SET a":                                 false,
		"SET a =":                               false,
		"SET a TO DEFAULT":                      false,
		"SET TIME ZONE LOCAL":                   false,
		"SET TIME ZONE INTERVAL '-3' HOUR TO MINUTE": false,
		"SET a FROM CURRENT":                         false,
		"SET LOCAL a = 1":                            false,
		"SET my.a = 1":                               false,
		"SET \"a\" = 1":                              false,
		"SET ROLE a":                                 false,
		"SET role = a":                               false,
		"SET SESSION AUTHORIZATION a":                false,
		"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY": false,
		"SET TRANSACTION READ ONLY":                            false,
		"SET transaction_read_only = on":                       false,
		"SET default_text_search_config = 'english'":           false,
		"SET seed = 0.5":                                       false,
		"SET NAMES 'UTF8'":                                     false,
		"SET a = 1; SET b = 2":                                 false,
		"SET a = 'x\\'":                                        false,
		"SET a = E'x'":                                         false,
		"SET a = U&'x'":                                        false,
		"SET a = 'x":                                           false,
		"SET a = $$x$$":                                        false,
		"SET a = f(1)":                                         false,
		"SET a = '\xc3\xa4'":                                   false,
		"RESET a":                                              false,
		"SELECT set_config('a', 'b', false)":                   false,
		"SETA = 1":                                             false,
	} {
		if got := isPlainSet([]byte(sql)); got != want {
			t.Errorf("%q: %v, want %v", sql, got, want)
		}
	}
}
