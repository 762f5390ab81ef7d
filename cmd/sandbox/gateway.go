package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"
)

// gateway is Atlassian's GraphQL gateway as far as it is asked: it gives tokens of users who are not there.
type gateway struct {
	system sync.Map // the app's system tokens that were handed out
	given  sync.Map // account id to the token that was given last
}

// exchange answers the mutation offlineUserAuthToken, for the workspace in which the app is installed and any user.
func (f *standInForge) exchange(w http.ResponseWriter, r *http.Request) {
	system, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if _, known := f.gateway.system.Load(system); !known {
		http.Error(w, "no system token of the app", http.StatusUnauthorized)
		return
	}
	var asked struct {
		Query     string `json:"query"`
		Variables struct {
			Input struct {
				ContextIDs []string `json:"contextIds"`
				UserID     string   `json:"userId"`
			} `json:"input"`
		} `json:"variables"`
	}
	input := &asked.Variables.Input
	answer := map[string]any{"success": false, "errors": []any{map[string]any{"message": "the user has no access there"}}}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&asked); err != nil || !strings.Contains(asked.Query, "offlineUserAuthToken(") {
		http.Error(w, "only offlineUserAuthToken is answered", http.StatusBadRequest)
		return
	}
	if len(input.ContextIDs) == 1 && input.ContextIDs[0] == "ari:cloud:bitbucket::workspace/"+workspaceID && input.UserID != "" {
		token := f.oauthToken(allScopes, time.Now().Add(time.Hour))
		f.gateway.given.Store(input.UserID, token)
		answer = map[string]any{"success": true, "errors": nil, "authToken": map[string]any{"token": token, "ttl": 3600}}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"offlineUserAuthToken": answer}}) // who went away needs none
}
