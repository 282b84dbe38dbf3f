package auth_test

import (
	"testing"

	"github.com/weirproxy/weir/auth"
)

// postgresPasswords are passwords with the verifiers that PostgreSQL 15.18 made of them (CREATE ROLE … PASSWORD, then
// pg_authid.rolpassword). Each tells one step of SASLprep from its neighbours.
var postgresPasswords = []struct{ name, password, verifier string }{
	{"plain ASCII", "correct horse", "SCRAM-SHA-256$4096:MwRPPy4AnJLry8xfeNChEA==$q3wwnW4KAJL3U/c/B/NZCc99hXbfsk09FlM/Xn3EfaQ=:0h+bafZioelbjFEeqoG84WFlP1xHjknVjOecTJMQxsw="},
	{"ASCII control characters pass unchanged", "tab\x09bell\x07", "SCRAM-SHA-256$4096:uvVnRzMsFzJtd7r2FqEhGA==$u2YNVHs4xBNRWvfFYxErlL9eDMxxIjIdWySIQLzyHpw=:14PhcLpaOBFi9Mu+UMOlbOzmCv30lEGXVW/C0WjbW7s="},
	{"soft hyphen is dropped", "I\u00adX", "SCRAM-SHA-256$4096:+vAESWEdgbCQitVKT85Xow==$zmvgMV/3b74thoiKKKK0YFGyJWJv/XJM8JyPM0rHDsE=:yZ4I7YgySqHZaoIcaAo4FB2ktgwVyTi88UByfmWjq6Y="},
	{"case is kept", "USER", "SCRAM-SHA-256$4096:01wNAE0PRwUwvFb9tdRY1g==$iNkFyuE0MrsrFO9EFY0LhlUB+MrF58L378YEIeH30Jk=:qzsrIFt83Pg00+FCC2d7YSFVMJlMOpOcp3XJY4bcN+M="},
	{"NFKC maps the ordinal", "\u00aa", "SCRAM-SHA-256$4096:RlaHWBV3R52ESyCf8wD5qg==$CBN9Ypj7n880j4ev5CjTyrqpMYD9IuFbItubfbO0FwY=:0C+ArKNWVoPlsZPVv6zmAIPnrWbRPPQcp6IP9uH4YmE="},
	{"NFKC maps the Roman numeral", "\u2168", "SCRAM-SHA-256$4096:nXOJKQx9V5qqjMLOy7FefA==$7Jnl/zQ0dQzEk128XsdTixDxmaMo4K0lUHWCqbqDHKU=:BzqjadzpfHRN/EVENxLG5FIdVwFGg1Oy11cwwrHSBYo="},
	{"prohibited output falls back to the raw password", "caf\u00e9\u0080", "SCRAM-SHA-256$4096:LIIRuNWdUvefHpZ3kWJPgw==$o0xOXtSolRbj06SfX52EFmts9kRsepGgAhoSd59BCKY=:f3kSPCTBs7jibhfCXef7gv0dsp6XqQpaeD2S337oWmo="},
	{"bidi violation falls back to the raw password", "\u06271", "SCRAM-SHA-256$4096:i/pZ+PW/lEsnAi5aiLXxjw==$60Q452dN09V0zTHmphRR8QOLF458fygxWelgulGVSeg=:IKnjZBgP+GmjNRvR+PzXhAuUJd9XMU/W2WIN9RQY8Ls="},
	{"bidi satisfied", "\u06271\u0628", "SCRAM-SHA-256$4096:ioQVqo8dQrb+TUJO/A10qA==$ILzYOCk42TEELwArZkth2x2Pw18QR3kz8cNvWF4/9sU=:wta2wX8k+XJ+Gj+6aR2O40tvOs2z/su5JEjUprNGF6o="},
	{"non-ASCII space becomes a space", "a\u00a0b\u3000c", "SCRAM-SHA-256$4096:CvGG9dwHMAHpxI+4Q5YfyQ==$MkbKdSTjbdPLzJpT3DorDPN2vgnWowACdCcrYnShZyw=:ZTzeadLT6qOafxV4B4Qy4DkBohN0UPhsE3jO4s9KTPs="},
	{"unassigned in Unicode 3.2 falls back to the raw password", "\U0001f600\u00adx", "SCRAM-SHA-256$4096:0h2EwTDl7IbowBqn1NGkDw==$YrsULUeCeTxmAYZ8H97kPhuSMZDMxbwb7wuhaXrUKPs=:HA/+KRFK6oRqdY1NealRoQu9olVSUvOCN0nYJsU9xUg="},
	{"decomposed becomes composed", "e\u0301a", "SCRAM-SHA-256$4096:ZCpMK0ZmHzJl7v6ZpLCrqQ==$ddt1MELkO7bhs8SALGLuUYCmI7qvP8Qg1qjgGdPg1mc=:1IQVWvarNwTvN9zXZ2wfM0TBi1Ax2VUwXNZb28dJXe4="},
	{"nothing left falls back to the raw password", "\u00ad", "SCRAM-SHA-256$4096:L5wIZSKEjP4gU1aGj8qFgg==$lFWld7wkOwznx3ioWiwFE3hcy3mCoa4ZIngYHKhHprI=:1S31Q3///zYu5UFA5vRnxrlRl8vDjIKXQ6lXKXYN1Uk="},
	{"RandALCat and LCat mixed falls back", "\u0627x\u00ad\u0628", "SCRAM-SHA-256$4096:pBRJVlxg7pomT8C31/DWIg==$H1JU/Pm+vCIl+9X0jIIWC6+zgvGTowUiKkmxkmOE3KE=:+z4cUwNOVxsUNkh8U1htHpVRbeKxMtE55U7LSK4XFTs="},
	{"prohibited only after NFKC", "\u0340\u00ad", "SCRAM-SHA-256$4096:rGaH8BY8zVBpTTmam704xw==$o59Z/uEIbgNKmRePPJky/NgyYb0YlMpdsX/Wqwe83kI=:KD7jCRz+QMhRqcHG5mdNK8bwSqv4hfyI6K/DKbkWp9M="},
	{"zero width space is dropped", "a\u200bb", "SCRAM-SHA-256$4096:qTOtsTWv3ARCwwKcQnggww==$PW4Uepz8+DZAwrSgDHXolltwJ/p3gc6qe1MSZx29Xm8=:/Bi7WzN0igWWz3FJnn/N4KAN7MdQTUMa+cIY0SiYpTI="},
	{"ideographic compatibility", "\ufa1d\uff21", "SCRAM-SHA-256$4096:NnKbQ0ICBgT6EXarlA0FSA==$BKAdTynelEHm9daX0jEVA//+oEmA5m/jDYnW5J/8A1o=:mGcpZ2jqit1wMq77GGAwuWY7DbgApMVtoAjXglroCUY="},
	{"prohibited sign before mapping", "a\u2028\u00ad", "SCRAM-SHA-256$4096:06KkU42x89K5SwhPM63NIw==$Z1LbHMHdlajm9XdIOb08w++z3Z7KgNEeCMsmYg7Ul4I=:iEQHhLKTQzFukYQhpjtYKzBwcvJiIFtkkTHxTecMvL8="},
	{"ligature", "\ufb01sh", "SCRAM-SHA-256$4096:O6EJDi3aWA09XLokyl+bCw==$GFgpXioJjGlsqmi+LefhMa6F9QWryjYQMEtsX4d5laM=:U55VCOBw1n2eTnYXrYruVTRyXC4GXXEPl48u2CudiVA="},
	{"RandALCat lost by NFKC", "\ufdfax\u00ad", "SCRAM-SHA-256$4096:XVhu/VG0IyTmYRJHKjJwhQ==$0GfbGUq73Qn7AHPBoZFOgOtbJdvk4cjSLh5PzniLh7c=:ja+TLNLHUDVAq6JZNW37fZAqhGuc0yRspYfX98Bb8QE="},
}

func TestPasswordsArePreparedAsPostgreSQLDoes(t *testing.T) {
	for _, test := range postgresPasswords {
		t.Run(test.name, func(t *testing.T) {
			users := usersOf(t, auth.Password, auth.NewKey(), map[string]string{"app": test.verifier})
			for password, want := range map[string]bool{test.password: true, test.password + "x": false} {
				x := users.Begin("app", auth.Binding{})
				if _, _, err := x.Start(nil); err != nil {
					t.Fatal(err)
				}
				_, done, err := x.Step(nil, append([]byte(password), 0))
				if done != want || (err == nil) != want {
					t.Errorf("password %+q: done %v, error %v, want %v", password, done, err, want)
				}
			}
		})
	}
}

func TestAPasswordThatIsNoUTF8IsUsedRaw(t *testing.T) {
	const password = "caf\xe9"
	users := usersOf(t, auth.Password, auth.NewKey(), map[string]string{"app": verifier(t, password, []byte("salt"), 1)})
	x := users.Begin("app", auth.Binding{})
	if _, _, err := x.Start(nil); err != nil {
		t.Fatal(err)
	}
	if _, done, err := x.Step(nil, []byte(password+"\x00")); !done {
		t.Errorf("refused: %v", err)
	}
}
