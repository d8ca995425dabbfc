// Adds the room and the sender to each message, and refuses messages that are too long.
package main

import (
	"encoding/json"
	"log"
	"net/http"
	"os"
	"strings"
)

func room(answer http.ResponseWriter, request *http.Request) {
	var asked struct {
		User, Client, Channel string
		Text                  []byte `json:"b64data"`
	}
	if err := json.NewDecoder(request.Body).Decode(&asked); err != nil || len(asked.Client) < 4 {
		http.Error(answer, "no question", http.StatusBadRequest)
		return
	}
	if len(asked.Text) > 500 {
		json.NewEncoder(answer).Encode(map[string]any{"disconnect": map[string]any{"code": 4500, "reason": "too long"}})
		return
	}
	who := asked.User
	if who == "" {
		who = "stranger-" + asked.Client[:4]
	}
	data := map[string]string{"room": strings.TrimPrefix(asked.Channel, "room:"), "from": who, "text": string(asked.Text)}
	json.NewEncoder(answer).Encode(map[string]any{"result": map[string]any{"data": data}})
}

func main() {
	address := "127.0.0.1:" + set("PORT", "3000")
	log.Fatal(http.ListenAndServe(address, http.HandlerFunc(room)))
}

func set(variable, otherwise string) string {
	if value := os.Getenv(variable); value != "" {
		return value
	}
	return otherwise
}
