package main

import (
	authv1 "k8s.io/api/authentication/v1"
)

// identity is who a bearer token stands for.
type identity struct {
	User   string   `json:"user"`
	Groups []string `json:"groups"`
}

type tokenRequest struct {
	identity
	Token  string `json:"token"`
	Revoke bool   `json:"revoke"`
}

// controlToken makes a bearer token known, or unknown again at once.
func (n *node) controlToken(in tokenRequest) (any, error) {
	n.reg.update(func() {
		if in.Revoke {
			delete(n.reg.tokens, in.Token)
		} else {
			n.reg.tokens[in.Token] = in.identity
		}
	})
	return nil, nil
}

// review answers the API server's token webhook.
func (r *registry) review(in authv1.TokenReview) (any, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	who, known := r.tokens[in.Spec.Token]
	in.Status = authv1.TokenReviewStatus{Authenticated: known}
	if known {
		in.Status.User = authv1.UserInfo{Username: who.User, Groups: who.Groups}
	}
	return in, nil
}
