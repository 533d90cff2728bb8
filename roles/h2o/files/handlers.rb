# mruby handlers of the mesh's ingress. Written by the h2o role of vdloo.mesh: changes here are lost.

# Asks an upstream again when an instance does not answer. h2o resolves the name for every try and takes
# any of its addresses, so the next try usually meets a live instance.
#
# Of several upstreams the first that answers is taken: all but the last are only some of the instances, such as those nearby.
#
# A request that may change something is asked again only when nothing of it was sent: it never arrives twice.
# Handshakes of websockets, and large bodies, go to h2o's own proxy, once.
class MeshRetry
  # What h2o answers by itself before it has written the first byte of a request. "Name or service not known" is
  # missing on purpose: a name without an address has no instance that a second try could find.
  NOT_SENT = [
    "connection failure",
    "connection timeout",
    "socket create error",
    "Temporary failure in name resolution",
    "Non-recoverable failure in name resolution",
    "System error",
  ]
  # What it answers when it got no response to what it has written, all of it or a part.
  SENT = [
    "I/O timeout",
    "I/O error (head)",
    "I/O error (send request)",
    "failed to parse the response",
    "unexpected type of transfer-encoding",
    "invalid content-length",
    UNTOLD = "no reason is known for a HEAD request",
  ]
  NO_ADDRESS = ["Name or service not known", "No address associated with hostname"]
  OWN_ERRORS = NOT_SENT + SENT + NO_ADDRESS
  OWN_ERROR_HEADERS = { "content-type" => "text/plain; charset=utf-8" }
  # Methods that change nothing, however often they are asked.
  SAFE = %w(GET HEAD OPTIONS)
  # Bytes of a body. To send one, http_request has no more time than @timeout, however well it comes along; the proxy of a route has more.
  LARGE = 1024 * 1024
  # Headers that concern one connection only, and those that are written anew below.
  DROPPED = %w(connection keep-alive proxy-connection te trailer transfer-encoding upgrade http2-settings
               content-length expect host via x-forwarded-for x-forwarded-proto x-forwarded-host)

  # Of `percent` of the requests, `canary` is the first upstream.
  def initialize(upstreams, attempts, timeout, canary = nil, percent = 0)
    @upstreams = [upstreams].flatten
    @attempts = attempts
    @timeout = timeout
    @canary = canary
    @percent = percent
  end

  def call(env)
    return [399, {}, []] if env["HTTP_SEC_WEBSOCKET_KEY"] || env["CONTENT_LENGTH"].to_i > LARGE

    request = { :method => env["REQUEST_METHOD"], :headers => headers_of(env), :body => body_of(env) }
    upstreams = @canary && rand(100) < @percent ? [@canary] + @upstreams : @upstreams
    index = 0
    while true
      upstream = upstreams[index]
      index += 1
      reason, response = ask(upstream, path_of(env), request, index < upstreams.size)
      return forward(response, env, upstream) unless reason
      break if index == upstreams.size || !(again?(request, reason) || NO_ADDRESS.include?(reason))
    end
    [502, { "content-type" => "text/plain; charset=utf-8" }, ["No answer from #{upstream}: #{reason}\n"]]
  end

  private

  # Gives nil and the response, or the reason why there is none. With others to ask, one time out is enough.
  def ask(upstream, path, request, others)
    url = "http://" + upstream + path
    started = Time.now
    tries = 0
    while true
      tries += 1
      response = http_request(url, request).join
      reason, response = judge(response, request[:method])
      return nil, response unless reason
      limit = others ? @timeout : patience(reason)
      break if !again?(request, reason) || tries >= @attempts || Time.now - started >= limit
    end
    # That nobody is near, or has the tag, is no news.
    $stderr.puts "[mesh] no answer from #{upstream} after #{tries} tries: #{reason}" unless others && NO_ADDRESS.include?(reason)
    return reason, nil
  end

  # Whether nothing can happen twice when the request is sent once more.
  def again?(request, reason)
    NOT_SENT.include?(reason) || (SAFE.include?(request[:method]) && SENT.include?(reason))
  end

  # Seconds after which no further try is begun. An instance that cannot be reached is worth four time outs;
  # one that took the request may be slow and not dead, and must not be asked over and over.
  def patience(reason)
    (reason == "connection timeout" ? 4 : 2) * @timeout
  end

  # The whole body, which h2o has read before it calls. It is not read here: h2o sends it from its own memory, at every try.
  # A POST or PUT without one has to say so in its content-length, as many services insist.
  def body_of(env)
    env["rack.input"] || (%w(POST PUT).include?(env["REQUEST_METHOD"]) ? "" : nil)
  end

  def path_of(env)
    path = env["PATH_INFO"]
    path = "/" + path unless path[0] == "/"
    query = env["QUERY_STRING"]
    path += "?" + query if query && query != ""
    path
  end

  def headers_of(env)
    headers = {}
    env.each do |key, value|
      next unless key[0, 5] == "HTTP_"
      name = key[5..-1].downcase.gsub("_", "-")
      headers[name] = value unless DROPPED.include?(name)
    end
    headers["content-type"] = env["CONTENT_TYPE"] if env["CONTENT_TYPE"]
    headers["x-forwarded-for"] = [env["HTTP_X_FORWARDED_FOR"], env["REMOTE_ADDR"]].compact.join(", ")
    headers["x-forwarded-proto"] = env["rack.url_scheme"]
    headers["via"] = [env["HTTP_VIA"], "1.1 " + env["HTTP_HOST"].to_s].compact.join(", ")
    headers
  end

  # h2o reports its own failure as a bare 500. Gives the reason of a failure, or nil and the upstream's response.
  def judge(response, method)
    return nil, response unless response[0] == 500 && response[1] == OWN_ERROR_HEADERS
    # The reason is in the body, which a HEAD request has not.
    return UNTOLD, nil if method == "HEAD"
    text = response[2].join
    return text, nil if OWN_ERRORS.include?(text)
    return nil, [response[0], response[1], [text]]
  end

  # What h2o's own proxy does to a response.
  def forward(response, env, upstream)
    headers = response[1]
    headers.delete("server")
    own = "http://" + upstream
    location = headers["location"]
    if location && (location == own || location[0, own.size + 1] == own + "/")
      headers["location"] = env["rack.url_scheme"] + "://" + env["HTTP_HOST"].to_s + env["SCRIPT_NAME"].to_s + location[own.size..-1]
    end
    response
  end
end

# Answers where no route matches.
class MeshNotFound
  def initialize(node)
    @text = "Nothing is routed here: no route of node #{node} has this host and path.\n"
  end

  def call(env)
    [404, { "content-type" => "text/plain; charset=utf-8" }, [@text]]
  end
end
